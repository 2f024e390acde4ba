"""Draws the README's gallery with the program itself and frames each picture by the checker's word.

    cargo build --release && python tools/gallery.py

The first pictures of each kind are taken as they come (seed = place in the list), right or wrong: green frames are
right in every aspect, red ones are not. Writes docs/gallery.png and docs/first.png.
"""
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import check_scenes
import sample
from figure import wrapped
from score import draw

ROOT = Path(__file__).resolve().parent.parent
FIRST = "a red circle to the left of a blue square"
ROWS = [("seen single objects", "single", 6), ("seen pairs", "pair", 12), ("held-out combinations", "held", 6)]
EXTRA = ["three orange triangles", "a striped red circle", "four pink hearts", "a dotted blue square",
         "a large yellow ring above a small black cross", "a drawing of a cat"]
SIDE, COLUMNS, TEXT = 150, 6, 46


def main():
    font = ImageFont.load_default(11)
    prompts = [p for _, kind, count in ROWS for p in sample.prompts_of(kind, count)] + EXTRA
    rows = -(-len(prompts) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 10), rows * (SIDE + TEXT + 10)), "white")
    pen = ImageDraw.Draw(sheet)
    with tempfile.TemporaryDirectory() as folder:
        for i, prompt in enumerate(prompts):
            pixels = draw(prompt, i, folder)
            known = check_scenes.parse(prompt) is not None
            frame = ("#2a9d4a" if check_scenes.check(pixels, prompt)[0] else "#d03030") if known else "#999999"
            x, y = i % COLUMNS * (SIDE + 10) + 5, i // COLUMNS * (SIDE + TEXT + 10) + 5
            pen.rectangle([x - 3, y - 3, x + SIDE + 2, y + SIDE + 2], fill=frame)
            sheet.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.LANCZOS), (x, y))
            pen.multiline_text((x, y + SIDE + 4), wrapped(prompt, font, SIDE), fill="black", font=font, spacing=1)
        (ROOT / "docs").mkdir(exist_ok=True)
        Image.fromarray(draw(FIRST, 0, folder)).save(ROOT / "docs/first.png", optimize=True)
    sheet.quantize(128).save(ROOT / "docs/gallery.png", optimize=True)


if __name__ == "__main__":
    main()
