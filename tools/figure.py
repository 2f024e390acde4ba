"""Sheets of pictures with a heading above each column and some lines of text beside each row, for the figures."""
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import scenes

DOCS = Path(__file__).resolve().parent.parent / "docs"
RIGHT, WRONG, PLAIN = "#2a9d4a", "#d03030", "#b0b0b0"


def drawn(things, relation="", ground="white", side=256):
    """A picture by the recipe, as uint8 pixels: shapes and colours of its objects, how they stand, the background."""
    s = scenes.Scene([scenes.Thing(*t) for t in things], ground, relation=relation)
    return (scenes.render([scenes.layout(s, np.random.default_rng(1))], side)[0] * 255).round().astype(np.uint8)


def judged(right):
    """A frame's colour: green if right, red if not, grey for None, where nothing is to be judged."""
    return PLAIN if right is None else RIGHT if right else WRONG


def wrapped(text, font, width):
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) > width and line:
            lines.append(line)
            line = word
        else:
            line = longer
    return "\n".join(lines + [line])


def grid(path, headings, rows, side=96, left=190, top=34, smooth=True):
    """Writes a sheet. rows: (lines of text, the first one larger; pictures as uint8 pixels; colours of their frames)."""
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    out = Image.new("RGB", (left + len(headings) * (side + 8), top + len(rows) * (side + 10)), "white")
    pen = ImageDraw.Draw(out)
    for i, text in enumerate(headings):
        middle = (left + i * (side + 8) + side / 2, top / 2)
        pen.multiline_text(middle, wrapped(text, small, side + 4), fill="black", font=small, anchor="mm", align="center")
    for row, (lines, pictures, frames) in enumerate(rows):
        y = top + row * (side + 10)
        for i, line in enumerate(lines):
            pen.text((8, y + 8 + (24 if i else 0) + 17 * max(0, i - 1)), line, fill="black", font=small if i else font)
        for i, (pixels, frame) in enumerate(zip(pictures, frames)):
            x = left + i * (side + 8)
            pen.rectangle([x - 3, y - 3, x + side + 2, y + side + 2], fill=frame)
            kind = Image.BICUBIC if smooth else Image.NEAREST
            out.paste(Image.fromarray(pixels).resize((side, side), kind), (x, y))
    path.parent.mkdir(exist_ok=True)
    out.save(path, optimize=True)
