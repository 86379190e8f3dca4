"""The phrases that videos are described with by default: things, actions, their general names, and kinds of scene."""

from functools import cache

from vidret.evaluate.phrases import list_class_names

# Of the things that ImageNet's classes are in WordNet 3.0 (hypernyms of five classes or more), those that can be seen.
CLASS_PARENTS = (
    *("animal", "mammal", "dog", "hunting dog", "hound", "terrier", "shepherd dog", "spaniel", "retriever", "toy dog"),
    *("cat", "big cat", "ungulate", "ruminant", "primate", "monkey", "ape", "rodent", "bird", "aquatic bird", "finch"),
    *("game bird", "wading bird", "fish", "shark", "reptile", "snake", "lizard", "turtle", "amphibian", "salamander"),
    *("insect", "beetle", "butterfly", "spider", "crustacean", "mollusk", "fungus", "flower", "fruit", "vegetable"),
    *("food", "dish of food", "baked goods", "vehicle", "motor vehicle", "car", "truck", "military vehicle", "boat"),
    *("ship", "aircraft", "machine", "tool", "hand tool", "weapon", "measuring instrument", "timepiece", "computer"),
    *("electronic equipment", "home appliance", "kitchen appliance", "kitchen utensil", "cooking utensil", "bottle"),
    *("musical instrument", "wind instrument", "stringed instrument", "percussion instrument", "sports equipment"),
    *("ball", "furniture", "seat", "clothing", "garment", "headdress", "footwear", "toiletry", "bag", "box", "fabric"),
    *("building", "house", "shop", "fence", "mountain", "geological formation", "body of water"),
)
# What a video can be, and where and how it can be filmed.
SCENE_KINDS = (
    *("an animated cartoon", "a video game", "a computer rendering", "a drawing", "a diagram", "a map", "a title card"),
    *("a black and white film", "a close-up", "an aerial view", "underwater", "at night", "at sunset", "a dark room"),
    *("a kitchen", "a living room", "an office", "a classroom", "a shop", "a factory", "a workshop", "a stage"),
    *(
        "a studio",
        "a sports field",
        "a stadium",
        "a gym",
        "a street",
        "a road",
        "a car interior",
        "a city",
        "a village",
    ),
    *("a forest", "a field", "a garden", "a beach", "the sea", "a river", "a lake", "a desert", "snow", "mountains"),
    *("the sky", "people talking", "a person talking to the camera", "a crowd", "a child", "hands at work"),
    *("cooking", "sports", "dancing", "playing music", "driving", "flying", "fire", "machinery at work"),
)


@cache
def list_bank() -> tuple[str, ...]:
    """Return all phrases, each once."""
    return tuple(dict.fromkeys((*list_class_names(), *CLASS_PARENTS, *SCENE_KINDS)))
