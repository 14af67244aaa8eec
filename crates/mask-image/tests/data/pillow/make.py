"""Writes the pictures beside it with Pillow 12: python make.py

Later versions filter vertically first where the height shrinks by more than twice as many pixels as the width.
"""
import pathlib

from PIL import Image, __version__

assert int(__version__.split(".")[0]) <= 12, "the order of passes changed with Pillow 13"
HERE = pathlib.Path(__file__).parent
HEIGHT, WIDTH = 37, 53


def source():
    """A picture with smooth parts, edges and noise, made from integers alone."""
    state, values = 1, []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for c in range(3):
                state = (state * 1664525 + 1013904223) % 2**32
                smooth = (x * x + 3 * y * y) // 7 + 40 * c
                values.append([smooth, (x // 4 + y // 5) % 2 * 255, state >> 24][(x * 3 // WIDTH + c) % 3] % 256)
    return Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(values))


# height, width and, where only a part is resized, its top, left, height, width
CASES = [(8, 11), (16, 16), (1, 1), (37, 20), (9, 53), (36, 52), (45, 60), (2, 70), (24, 24, 3, 5, 20, 31), (20, 20, 36, 0, 1, 53)]
for mode in "RGB", "L":
    for name, filter in ("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR):
        for height, width, *part in CASES:
            if mode == "RGB" and height * width > 800:
                continue  # small files
            picture = source().convert(mode)
            where = ""
            if part:
                top, left, tall, wide = part
                picture = picture.crop((left, top, left + wide, top + tall))
                where = "-of-" + ".".join(map(str, part))
            picture.resize((width, height), filter).save(HERE / f"{mode}-{name}-{height}x{width}{where}.png", optimize=True)
