"""Every image kind with known colours, and every reason to refuse one."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from tcc_fast.datasets import decode
from tcc_fast.datasets.decode import Decoded, decode_image
from tcc_fast.datasets.reader import Rejected
from tcc_fast.datasets.sniff import HEAD_BYTES, sniff

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()  # for writing; reading needs nothing registered

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
HEIC_HEAD = b"\0\0\0\x18ftypheic" + bytes(50)
Encode = Callable[..., bytes]


def avif(*parts: Any) -> Any:
    missing = not features.check("avif")
    return pytest.param("AVIF", *parts, marks=pytest.mark.skipif(missing, reason="this Pillow has no AVIF"))


def heic(*parts: Any) -> Any:
    missing = pillow_heif is None
    return pytest.param("HEIF", *parts, marks=pytest.mark.skipif(missing, reason="needs pillow-heif"))


def pixels(data: bytes, **options: Any) -> np.ndarray[Any, Any]:
    """Decoded pixels as RGB, (H, W, 3)."""
    decoded = decode_image(data, **options)
    assert isinstance(decoded, Decoded), decoded
    assert decoded.image.mode in ("L", "RGB")
    return np.asarray(decoded.image.convert("RGB")).astype(int)


def reason(data: bytes, **options: Any) -> str:
    rejected = decode_image(data, **options)
    assert isinstance(rejected, Rejected), rejected
    return str(rejected)


def halves(left: Any, right: Any, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (32, 16), left)
    image.paste(right, (16, 0, 32, 16))
    return image


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written by hand, for the kinds that Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [
        chunk(b"IHDR", head),
        *(chunk(e[:4], e[4:]) for e in extra),
        chunk(b"IDAT", zlib.compress(rows)),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("MPO", {"quality": 95, "subsampling": 0}),
        avif({"quality": 95, "subsampling": "4:4:4"}),
        heic({"quality": 95, "chroma": 444}),
    ],
)
def test_colour(encode: Encode, kind: str, options: dict[str, Any]) -> None:
    found = pixels(encode(halves(RED, BLUE), kind, **options))
    assert found.shape == (16, 32, 3)
    assert np.abs(found[:, 2:12] - RED).max() <= 12
    assert np.abs(found[:, 20:30] - BLUE).max() <= 12
    if kind not in ("JPEG", "MPO", "AVIF", "HEIF") and options != {"quality": 95}:
        assert (found == np.asarray(halves(RED, BLUE))).all()


@pytest.mark.parametrize(
    ("kind", "mode", "values", "expected"),
    [
        ("JPEG", "L", (0, 200), ((0, 0, 0), (200, 200, 200))),
        ("PNG", "L", (7, 200), ((7, 7, 7), (200, 200, 200))),
        ("PNG", "1", (0, 1), ((0, 0, 0), WHITE)),
        ("TIFF", "1", (0, 1), ((0, 0, 0), WHITE)),
        ("BMP", "1", (0, 1), ((0, 0, 0), WHITE)),
        ("PNG", "LA", ((10, 255), (10, 0)), ((10, 10, 10), WHITE)),
        ("PNG", "LA", ((0, 128), (100, 255)), ((127, 127, 127), (100, 100, 100))),
        ("PNG", "RGBA", ((255, 0, 0, 255), (255, 0, 0, 0)), (RED, WHITE)),
        ("PNG", "RGBA", ((255, 0, 0, 128), (0, 0, 255, 64)), ((255, 127, 127), (191, 191, 255))),
        ("TIFF", "RGBA", ((255, 0, 0, 128), (0, 0, 255, 0)), ((255, 127, 127), WHITE)),
        ("JPEG", "CMYK", ((0, 255, 255, 0), (0, 0, 0, 255)), (RED, (0, 0, 0))),
        ("TIFF", "CMYK", ((0, 255, 255, 0), (255, 255, 0, 0)), (RED, BLUE)),
    ],
)
def test_modes(encode: Encode, kind: str, mode: str, values: Any, expected: Any) -> None:
    options = {"quality": 100} if kind == "JPEG" else {}
    found = pixels(encode(halves(*values, mode=mode), kind, **options))
    assert np.abs(found[:, 2:12] - expected[0]).max() <= (2 if kind == "JPEG" else 0)
    assert np.abs(found[:, 20:30] - expected[1]).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_top_byte(encode: Encode, kind: str) -> None:
    levels = np.array([[0, 0x00FF, 0x0100, 0x1234, 0x8000, 0xFFFF], [200 << 8, 200 * 257, 1, 2, 3, 4]], np.uint16)
    assert (pixels(encode(Image.fromarray(levels), kind))[..., 0] == levels >> 8).all()


def test_webp_transparency(encode: Encode) -> None:
    found = pixels(encode(halves((255, 0, 0, 128), (0, 0, 255, 0), "RGBA"), "WEBP", lossless=True))
    assert tuple(found[5, 5]) == (255, 127, 127)
    assert tuple(found[5, 25]) == WHITE


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (32, 16), 0)
    image.putpalette([value for colour in colours for value in colour])
    image.paste(1, (16, 0, 32, 16))
    return image


def test_palette(encode: Encode) -> None:
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        found = pixels(encode(palette(RED, GREEN), kind))
        assert tuple(found[0, 0]) == RED
        assert tuple(found[0, 31]) == GREEN


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_transparency_by_index(encode: Encode, kind: str) -> None:
    found = pixels(encode(palette(RED, GREEN), kind, transparency=1))
    assert tuple(found[0, 0]) == RED
    assert tuple(found[0, 31]) == WHITE


def test_palette_transparency_by_level(encode: Encode) -> None:
    found = pixels(encode(palette(RED, GREEN), "PNG", transparency=bytes([128, 0])))
    assert tuple(found[0, 0]) == (255, 127, 127)
    assert tuple(found[0, 31]) == WHITE


def test_png_16_bit_colour() -> None:
    row = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x0100, 0xFE00, 0x7FFF)
    found = pixels(png(2, 1, 16, 2, row))
    assert found.tolist() == [[[255, 128, 0], [1, 254, 127]]]


def test_png_16_bit_grey_with_alpha() -> None:
    row = b"\0" + struct.pack(">4H", 0x6400, 0xFFFF, 0x6400, 0)
    assert pixels(png(2, 1, 16, 4, row)).tolist() == [[[100] * 3, [255] * 3]]


def test_png_transparent_colour() -> None:
    grey = png(2, 1, 8, 0, b"\0\x07\x08", b"tRNS" + struct.pack(">H", 7))
    assert pixels(grey).tolist() == [[[255] * 3, [8] * 3]]
    deep_grey = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 0x0701, 0x0702), b"tRNS" + struct.pack(">H", 0x0701))
    assert pixels(deep_grey).tolist() == [[[255] * 3, [7] * 3]]
    one_bit = png(8, 1, 1, 0, b"\0\xf0", b"tRNS" + struct.pack(">H", 0))
    assert pixels(one_bit).tolist() == [[[255] * 3] * 8]
    colour = png(2, 1, 8, 2, b"\0\x01\x02\x03\x04\x05\x06", b"tRNS" + struct.pack(">HHH", 1, 2, 3))
    assert pixels(colour).tolist() == [[[255] * 3, [4, 5, 6]]]
    row = b"\0" + struct.pack(">6H", 0x0100, 0x0200, 0x0300, 0x0400, 0x0500, 0x0600)
    deep_colour = png(2, 1, 16, 2, row, b"tRNS" + struct.pack(">HHH", 0x0100, 0x0200, 0x0300))
    assert pixels(deep_colour).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_tiff_16_bit_colour_and_inverted_grey() -> None:
    def tiff(photometric: int, samples: int, body: bytes) -> bytes:
        tags = [
            (256, 2),
            (257, 1),
            (258, 16),
            (259, 1),
            (262, photometric),
            (273, 200),
            (277, samples),
            (278, 1),
        ]
        tags.append((279, len(body)))
        entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags]
        if samples == 3:
            entries[2] = struct.pack("<HHII", 258, 3, 3, 180)
        head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
        head = head.ljust(180, b"\0") + struct.pack("<HHH", 16, 16, 16)
        return head.ljust(200, b"\0") + body

    colour = tiff(2, 3, struct.pack("<6H", 0xFFFF, 0x8000, 0, 0x0100, 0xFE00, 0x7FFF))
    assert pixels(colour).tolist() == [[[255, 128, 0], [1, 254, 127]]]
    assert pixels(tiff(1, 1, struct.pack("<2H", 0x0000, 0xC8FF))).tolist() == [[[0] * 3, [200] * 3]]
    assert pixels(tiff(0, 1, struct.pack("<2H", 0x0000, 0xC8FF))).tolist() == [[[255] * 3, [55] * 3]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_only(encode: Encode, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (pixels(data) == RED).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", avif(), heic()])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(encode: Encode, kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))  # top left
    upright.paste(BLUE, (32, 0, 48, 16))  # top right
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(stored, kind, exif=exif.tobytes()))
    assert isinstance(decoded, Decoded)
    assert decoded.full_size == decoded.image.size == (48, 32)
    found = np.asarray(decoded.image).astype(int)
    for at, colour in (((8, 8), RED), ((8, 40), BLUE), ((24, 24), WHITE)):
        assert np.abs(found[at] - colour).max() < 60
    assert decoded.plain == (orientation == 1 and kind in ("JPEG", "PNG"))


def test_broken_metadata_does_no_harm(encode: Encode) -> None:
    assert np.abs(pixels(encode(halves(RED, RED), "JPEG", exif=b"Exif\0\0rubbish")) - RED).max() <= 4


def test_plain_is_only_what_every_decoder_reads_alike(encode: Encode) -> None:
    def plain(data: bytes) -> bool:
        decoded = decode_image(data)
        assert isinstance(decoded, Decoded)
        return decoded.plain

    colour = halves(RED, BLUE)
    assert plain(encode(colour, "JPEG"))
    assert plain(encode(colour, "JPEG", progressive=True))
    assert plain(encode(colour.convert("L"), "JPEG"))
    assert plain(encode(colour, "PNG"))
    assert not plain(encode(colour.convert("CMYK"), "JPEG"))
    assert not plain(encode(colour, "JPEG", keep_rgb=True))
    assert not plain(encode(colour, "MPO", save_all=True, append_images=[colour]))
    assert not plain(encode(colour.convert("RGBA"), "PNG"))
    assert not plain(encode(colour.convert("P"), "PNG"))
    assert not plain(encode(colour.convert("1"), "PNG"))
    assert not plain(encode(colour, "PNG", save_all=True, append_images=[halves(BLUE, RED)]))
    assert not plain(encode(colour, "BMP"))


@pytest.mark.parametrize("kind", [avif(), heic()])
def test_files_of_phones_are_photographs(encode: Encode, kind: str) -> None:
    decoded = decode_image(encode(halves(RED, BLUE), kind))
    assert isinstance(decoded, Decoded)
    assert (decoded.plain, decoded.lossless) == (False, False)  # so stored as JPEG, which all pipelines read


@pytest.mark.parametrize(
    ("module", "brand", "said"),
    [
        ("pillow_heif", b"heic", "HEIC needs pillow-heif (pip install pillow-heif)"),
        ("_pillow_heif", b"heic", "HEIC needs pillow-heif (pip install pillow-heif)"),  # its compiled part
        ("PIL.AvifImagePlugin", b"avif", "AVIF needs Pillow 11.3, built with libavif"),
        ("PIL._avif", b"avif", "AVIF needs Pillow 11.3, built with libavif"),
    ],
)
def test_without_its_library_a_file_is_refused_with_the_remedy(
    module: str, brand: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    decode._opener.cache_clear()
    try:
        assert reason(b"\0\0\0\x18ftyp" + brand + bytes(50)) == said
    finally:
        decode._opener.cache_clear()


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        (b"heic", "HEIC"),
        (b"mif1heic", "HEIC"),
        (b"mif1avif", "AVIF"),
        (b"avifmif1miaf", "AVIF"),
        (b"isommp42", None),  # a film
    ],
)
def test_brands_tell_heic_from_avif(brands: bytes, expected: str | None) -> None:
    box = brands[:4] + bytes(4) + brands[4:]
    head = struct.pack(">I", 8 + len(box)) + b"ftyp" + box + b"avif, of the next box"
    assert sniff(head[:HEAD_BYTES])[0] == expected


def test_reduction_keeps_colours_and_reports_full_size(encode: Encode, photo: Any) -> None:
    image = photo(800, 600)
    data = encode(image, "JPEG", quality=95, subsampling=0)
    reduced = decode_image(data, reduce_to=150)
    assert isinstance(reduced, Decoded)
    assert (reduced.full_size, reduced.image.size, reduced.plain) == ((800, 600), (200, 150), False)
    small = np.asarray(image.resize((200, 150), Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(reduced.image).astype(int) - small).mean() < 2


# Refusals.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"hello, this is a text", "not an image"),
        (b"index,label\n0,1\n", "not an image"),
        (b"BMW and other cars, listed at length in a text file", "not an image"),
        (b"\xff", "not an image"),
        (b"%PDF-1.7 and so on", "not an image"),
        pytest.param(HEIC_HEAD, "damaged (HEIC)", marks=heic().marks),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "unsupported format (JPEG 2000)"),
        (b"P6\n2 2\n255\n" + bytes(12), "unsupported format (Netpbm)"),
        (b"\x89PNG\r\n\x1a\n", "truncated (PNG)"),
        (b"\xff\xd8\xff\xe0", "truncated (JPEG)"),
        (b"\xff\xd8\xff\xd9" + bytes(8), "truncated (JPEG)"),
        (b"GIF89a\x00\x00\x00\x00\x00\x00\x00;", "zero size (0 x 0)"),
        (png(0, 5, 8, 2, b""), "zero size (0 x 5)"),
        (png(1, 1, 8, 9, b"\0\0"), "damaged (PNG)"),
    ],
)
def test_refusals(data: bytes, expected: str) -> None:
    assert reason(data) == expected


KINDS = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "PNG": {},
    "WEBP": {},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
    "LZW TIFF": {"compression": "tiff_lzw"},
    "AVIF": {},
    "HEIF": {},
}
KINDS_OF_FILES = [{"AVIF": avif(), "HEIF": heic()}.get(kind, kind) for kind in KINDS]


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_cut_files(encode: Encode, kind: str, part: float, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind.split()[-1], **KINDS[kind])
    assert isinstance(decode_image(data), Decoded)
    assert reason(data[: int(part * len(data))]).split(" (")[0] in ("truncated", "damaged")
    assert capfd.readouterr() == ("", "")


def test_libraries_do_not_print(encode: Encode, photo: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        data = encode(photo(200, 200), "TIFF", compression=compression)
        assert reason(data[:200] + b"\xff" * 300 + data[500:]).startswith("damaged (TIFF)")
    assert capfd.readouterr() == ("", "")


def test_warnings_do_not_leak() -> None:
    # Pillow warns "Invalid APNG"; here that would be an error.
    data = png(1, 1, 8, 2, b"\0\x01\x02\x03", b"acTL" + bytes(8))
    assert pixels(data).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("missing", [1, 2])
def test_end_marker_is_needed(encode: Encode, missing: int) -> None:
    assert reason(encode(halves(RED, BLUE), "JPEG")[:-missing]) == "truncated (JPEG)"
    assert reason(encode(halves(RED, BLUE), "PNG")[:-missing]) == "truncated (PNG)"


def test_end_marker_of_a_thumbnail_does_not_count(encode: Encode) -> None:
    thumbnail = encode(halves(RED, BLUE), "JPEG")
    body = encode(halves(RED, BLUE), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = body[:2] + segment + body[2:]
    assert isinstance(decode_image(data), Decoded)
    assert reason(data[:-2]) == "truncated (JPEG)"


def test_zeros_instead_of_the_second_half(encode: Encode, photo: Any) -> None:
    # What an interrupted download into a preallocated file looks like.
    for kind in ("JPEG", "PNG"):
        data = encode(photo(200, 200), kind)
        assert reason(data[: len(data) // 2].ljust(len(data), b"\0")).split(" (")[0] in (
            "truncated",
            "damaged",
        )


def test_flipped_bit_in_png(encode: Encode, photo: Any) -> None:
    data = bytearray(encode(photo(64, 64), "PNG"))
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "damaged (PNG)"


@pytest.mark.parametrize("bomb", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_bomb_is_refused_without_allocating_it(encode: Encode, bomb: str) -> None:
    side = 16_000 if bomb == "WEBP" else 30_000
    if bomb == "PNG":
        data = png(side, side, 8, 2, bytes(100))
    else:
        data = bytearray(encode(halves(RED, BLUE), bomb, **({"lossless": True} if bomb == "WEBP" else {})))
        at, layout, value = {
            "JPEG": (data.find(b"\xff\xc0") + 5, ">HH", (side, side)),
            "GIF": (6, "<HH", (side, side)),
            "BMP": (18, "<ii", (side, side)),
            "WEBP": (21, "<I", (side - 1 | (side - 1) << 14,)),
            "TIFF": (0, "", ()),
        }[bomb]
        if bomb == "TIFF":
            for tag in (256, 257):
                entry = data.find(struct.pack("<HHI", tag, 4, 1))
                entry = entry if entry >= 0 else data.find(struct.pack("<HHI", tag, 3, 1))
                assert entry >= 0
                struct.pack_into("<H", data, entry + 2, 4)
                struct.pack_into("<I", data, entry + 8, side)
        else:
            struct.pack_into(layout, data, at, *value)
    tracemalloc.start()
    try:
        assert reason(bytes(data)) == f"too many pixels ({side} x {side}, limit 178956970)"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_pixel_limit_is_exact(encode: Encode) -> None:
    data = encode(halves(RED, BLUE), "PNG")
    assert isinstance(decode_image(data, max_pixels=512), Decoded)
    assert reason(data, max_pixels=511) == "too many pixels (32 x 16, limit 511)"


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_undefined_value_ranges_are_refused(encode: Encode, mode: str, dtype: Any) -> None:
    data = encode(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    assert reason(data) == f"unsupported pixel type ({mode})"


def test_lab_is_refused(encode: Encode) -> None:
    assert reason(encode(Image.new("LAB", (4, 4)), "TIFF")) == "unsupported pixel type (LAB)"


def test_nothing_raises_on_rubbish(encode: Encode, photo: Any) -> None:
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        data = np.frombuffer(encode(photo(20, 20), kind), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            outcome = decode_image(damaged.tobytes(), max_pixels=1_000_000)
            assert isinstance(outcome, Decoded | Rejected)
            assert "0x" not in str(outcome) or isinstance(outcome, Decoded)  # no memory addresses
