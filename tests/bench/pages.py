"""Made-up pages of text in four orientations, as the page orientation network wants them: the same for the same seed."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "is",
    "was",
    "for",
    "it",
    "with",
    "as",
    "his",
    "on",
    "be",
    "at",
    "by",
    "had",
    "not",
    "are",
    "but",
    "from",
    "or",
    "have",
    "an",
    "they",
    "which",
    "one",
    "you",
    "were",
    "all",
    "her",
    "she",
    "there",
    "would",
    "their",
    "we",
    "him",
    "been",
    "has",
    "when",
    "who",
    "will",
    "no",
    "more",
    "if",
    "out",
    "so",
    "said",
    "what",
    "up",
    "its",
    "about",
    "than",
    "into",
    "them",
    "can",
    "only",
    "other",
    "time",
    "new",
    "some",
    "could",
    "these",
    "two",
    "may",
    "first",
    "then",
    "do",
    "any",
    "like",
    "my",
    "now",
    "over",
    "such",
    "our",
    "man",
    "me",
    "even",
    "most",
    "made",
    "after",
    "also",
    "did",
    "many",
]
SIDE = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def page(rng: np.random.Generator) -> Image.Image:
    """One upright page: headings, paragraphs, columns, lists or tables on a tinted sheet."""
    width, height = int(rng.integers(380, 640)), int(rng.integers(380, 640))
    paper = tuple(int(v) for v in rng.integers(215, 256, 3))
    ink = tuple(int(v) for v in rng.integers(0, 90, 3))
    sheet = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(sheet)
    size = int(rng.integers(13, 30))
    font = ImageFont.load_default(size)
    columns = int(rng.choice([1, 1, 1, 2]))
    margin = int(rng.integers(8, 40))
    span = (width - margin * (columns + 1)) // columns
    for column in range(columns):
        left, y = margin + column * (span + margin), margin
        while y < height - margin - size:
            kind = str(rng.choice(["paragraph", "paragraph", "paragraph", "heading", "list", "table"]))
            if kind == "heading":
                draw.text(
                    (left, y), _line(rng, ImageFont.load_default(size + 8), span), ink, ImageFont.load_default(size + 8)
                )
                y += size + 20
                continue
            for k in range(int(rng.integers(2, 8))):
                if y >= height - margin - size:
                    break
                if kind == "table":
                    for cell in range(3):
                        draw.text((left + cell * span // 3, y), str(rng.choice(WORDS))[:8], ink, font)
                    draw.line((left, y + size + 3, left + span, y + size + 3), ink)
                else:
                    lead = f"{k + 1}. " if kind == "list" else ""
                    draw.text((left, y), lead + _line(rng, font, span - size * len(lead) // 2), ink, font)
                y += size + 6
            y += int(rng.integers(4, 20))
    sheet = sheet.rotate(float(rng.uniform(-2, 2)), fillcolor=paper)
    return sheet.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2.2))))


def _line(rng: np.random.Generator, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    words = [str(rng.choice(WORDS)).capitalize()]
    while True:
        longer = [*words, str(rng.choice(WORDS))]
        if font.getlength(" ".join(longer)) > width:
            return " ".join(words)
        words = longer


def prepared(sheet: Image.Image) -> np.ndarray:
    """Shorter side to 256, the middle 224 x 224, ImageNet's mean and deviation; float32 [3, 224, 224]."""
    scale = 256 / min(sheet.size)
    sheet = sheet.resize((round(sheet.width * scale), round(sheet.height * scale)), Image.Resampling.BILINEAR)
    left, top = (sheet.width - SIDE) // 2, (sheet.height - SIDE) // 2
    pixels = np.asarray(sheet.crop((left, top, left + SIDE, top + SIDE)), np.float32) / 255
    return np.ascontiguousarray(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1))


def pages(count: int, seed: int, wear: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [4 * count, 3, 224, 224], label = quarter turns clockwise) of ``count`` pages, each turned four ways.

    ``wear``: how much noise the sheets have, and how far they are out of focus; 1 is a fair copy, 3 one that is hardly read.
    """
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for _ in range(count):
        sheet = page(rng)
        if wear > 1:
            sheet = sheet.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, wear))))
        noise = rng.normal(0, rng.uniform(0, 40 * wear), (sheet.height, sheet.width, 1))
        sheet = Image.fromarray(np.clip(np.asarray(sheet) + noise, 0, 255).astype(np.uint8))
        for quarter in range(4):
            images.append(prepared(sheet.rotate(-90 * quarter, expand=True)))
            labels.append(quarter)
    return np.stack(images), np.array(labels)
