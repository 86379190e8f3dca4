"""Colours and text shared by contact sheets and charts."""

from PIL import ImageDraw, ImageFont

INK, FAINT, PAPER = (24, 24, 28), (110, 110, 120), (250, 250, 248)
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def fit_text(pen: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """Return a text that is at most ``width`` pixels wide; one that is cut ends with "..."."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return text and f"{text}..."
