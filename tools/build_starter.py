"""Make vidret/encode/families/starter_classes.safetensors: one MiniLM vector for each ImageNet class.

    python tools/build_starter.py [OUT]

A class is read in three sentences, so that it is seen as pictures, videos and whole scenes speak of it; the definition
in the third brings synonyms and hypernyms along ("tench, freshwater dace-like game fish of Europe ...").
"""

from pathlib import Path

import open_clip
import torch
from harness import make_parser
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo

from vidret.encode.families.starter import CLASS_TEXTS, StarterEncoder
from vidret.encode.sentences import SENTENCES, find_weights, load_sentence_model, pool_words

TEMPLATES = ("a photo of a {name}", "a video of a {name}", "a video of a scene with a {name}, {definition}")


def read_classes() -> list[tuple[str, str]]:
    """Read the curated name (open_clip) and the WordNet definition (timm) of each of the 1,000 classes, in order."""
    info = ImageNetInfo("imagenet-1k")
    definitions = [text.split(":", 1)[1].strip() for text in info.label_descriptions(detailed=True)]
    return list(zip(open_clip.IMAGENET_CLASSNAMES, definitions, strict=True))


def embed_classes(classes: list[tuple[str, str]]) -> torch.Tensor:
    """Average the unit vectors of each class's sentences: (class, dim)."""
    model = load_sentence_model(find_weights(SENTENCES))
    total = torch.zeros(len(classes), StarterEncoder.dim)
    for template in TEMPLATES:
        texts = [template.format(name=name, definition=definition) for name, definition in classes]
        for start in range(0, len(texts), 50):
            vectors = pool_words(*model.embed(texts[start : start + 50]))
            total[start : start + 50] += torch.from_numpy(vectors) / len(TEMPLATES)
    return total


def main() -> None:
    """Write the vectors."""
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=CLASS_TEXTS)
    out = parser.parse_args().out
    save_file({"classes": embed_classes(read_classes()).half()}, out, metadata={"templates": " | ".join(TEMPLATES)})
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
