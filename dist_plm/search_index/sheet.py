"""Contact sheet: the query, and its neighbours with rank, cosine and label."""

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dist_plm.data.decode import decode
from dist_plm.errors import UserError
from dist_plm.search_index.search_index import Neighbour, SearchIndex

TILE, GAP, CAPTION, COLUMNS = 168, 14, 46, 5
QUERY = 2 * TILE + GAP + CAPTION  # from the top of the first row of pictures to the bottom of the second
PAPER, INK, FAINT, MAT = "#ffffff", "#16181d", "#6b7280", "#f1f2f4"
_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # they hold most of the world's scripts


def contact_sheet(
    query: Image.Image, title: str, neighbours: list[Neighbour], search_index: SearchIndex
) -> Image.Image:
    """The sheet, RGB. An unreadable image leaves an empty tile."""
    columns = min(COLUMNS, len(neighbours))
    rows = -(-len(neighbours) // COLUMNS)
    left = QUERY + 4 * GAP
    width = left + columns * (TILE + GAP) + GAP
    height = 2 * GAP + max(QUERY + CAPTION, rows * (TILE + CAPTION + GAP) - GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    _place(sheet, query, (2 * GAP, 2 * GAP), QUERY, "query", title)
    for number, neighbour in enumerate(neighbours):
        row, column = divmod(number, COLUMNS)
        corner = (left + GAP + column * (TILE + GAP), 2 * GAP + row * (TILE + CAPTION + GAP))
        head = f"{neighbour.rank}    {neighbour.cosine:.3f}"
        _place(sheet, _read(search_index, neighbour.row), corner, TILE, head, neighbour.label or neighbour.name)
    return sheet


def _read(search_index: SearchIndex, row: int) -> Image.Image | None:
    try:
        return decode(search_index.images.read(row))
    except (ValueError, OSError, UserError):
        return None


def _place(
    sheet: Image.Image, image: Image.Image | None, corner: tuple[int, int], side: int, head: str, text: str
) -> None:
    draw, (x, y) = ImageDraw.Draw(sheet), corner
    tile = Image.new("RGB", (side, side), MAT)
    if image is not None:
        tile = ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color=MAT)
    sheet.paste(tile, corner)
    draw.text((x, y + side + 6), head, INK, _font("DejaVuSans-Bold", 13))
    font = _font("DejaVuSans", 12)
    caption = text.encode("utf-8", "backslashreplace").decode()  # paths may not be UTF-8
    draw.text((x, y + side + 24), _shortened(caption, font, side), FAINT, font)


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONTS / f"{name}.ttf"), size)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, truncated with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    # Paths of one folder share their beginning, so it is truncated; sentences are truncated at the end.
    cut, mark = (slice(1, None), "…{}") if "/" in text else (slice(-1), "{}…")
    while text and font.getlength(mark.format(text)) > width:
        text = text[cut]
    return mark.format(text.strip())
