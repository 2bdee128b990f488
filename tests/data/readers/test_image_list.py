"""Image lists in the format of built-in image classification, and errors in their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.readers.channel_files import list_files
from finetune.data.readers.image_folder import ImageFolderReader
from finetune.data.readers.image_list import read_image_list
from finetune.errors import DataError, UserError
from tests.support.labelled_data import write_files


def open_list(
    tmp_path: Path, lists: dict[str, str], *, multi_label: bool = False, max_bad_records: int = 0
) -> ImageFolderReader:
    images = write_files(tmp_path / "train", {"a.jpg": b"a", "x/b.jpg": b"b", "x/c.JPEG": b"c"})
    folder = write_files(tmp_path / "train_lst", {key: text.encode() for key, text in lists.items()})
    listing = list_files("train", images)
    return read_image_list(listing, folder, multi_label=multi_label, max_bad_records=max_bad_records)


def contents(reader: ImageFolderReader) -> dict[str, tuple[str, ...]]:
    return {reader.key(index): reader.labels(index) for index in range(len(reader))}


def test_single_label_is_a_number_or_a_name(tmp_path: Path) -> None:
    reader = open_list(tmp_path, {"all.lst": "7\t1.000000\tx/b.jpg\n5\t0\t./a.jpg\r\n\n9\tcat\tx/c.JPEG"})
    assert contents(reader) == {"a.jpg": ("0",), "x/b.jpg": ("1",), "x/c.JPEG": ("cat",)}
    assert reader.read(0).content == b"a"


def test_lists_are_combined_and_other_files_are_ignored(tmp_path: Path) -> None:
    reader = open_list(tmp_path, {"2.lst": "0\t0\ta.jpg\n", "1.lst": "0\t1\tx/b.jpg\n", "readme.txt": "?"})
    assert contents(reader) == {"a.jpg": ("0",), "x/b.jpg": ("1",)}


def test_several_labels_are_flags_per_class(tmp_path: Path) -> None:
    lines = "0\t1\t0\t1\ta.jpg\n1\t0.0\t0.0\t0.0\tx/b.jpg\n"
    assert contents(open_list(tmp_path, {"all.lst": lines}, multi_label=True)) == {"a.jpg": ("0", "2"), "x/b.jpg": ()}


def test_several_labels_require_multi_label(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'train_lst': all\.lst, line 1 has 2 labels; set multi_label=true"):
        open_list(tmp_path, {"all.lst": "0\t1\t0\ta.jpg\n"})


@pytest.mark.parametrize(
    ("second_line", "reason"),
    [
        ("1\t0\tx/missing.jpg", r"names 'x/missing\.jpg', but channel 'train' has no such file"),
        ("1\t0\t../secret.jpg", r"'\.\./secret\.jpg' points outside channel 'train'"),
        ("1\t0\tx/../../a.jpg", "points outside channel"),
        ("1\t0\t/etc/passwd", "'/etc/passwd' points outside channel"),
        ("1 0 a.jpg", "has 1 columns instead of 3; expected index, label, relative path, separated by tabs"),
        ("1\t0\t1\tx/b.jpg", "has 4 columns instead of 3"),
        ("1\t\tx/b.jpg", "the label is missing"),
        ("1\t0\ta.jpg", r"'a\.jpg' is already listed in channel 'train_lst': all\.lst, line 1"),
    ],
)
def test_malformed_line_raises(tmp_path: Path, second_line: str, reason: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=rf"'train_lst': all\.lst, line 2:? .*{reason}"):
        open_list(tmp_path, {"all.lst": f"0\t0\ta.jpg\n{second_line}\n"})


def test_link_outside_the_channel_is_missing(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"")
    (tmp_path / "train" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match=r"line 1 names 'link\.jpg', but channel 'train' has no such file"):
        open_list(tmp_path, {"all.lst": "0\t0\tlink.jpg\n"})


def test_flags_must_be_one_or_zero(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: one of several labels is '2'; expected 1 or 0"):
        open_list(tmp_path, {"all.lst": "0\t1\t2\ta.jpg\n"}, multi_label=True)


def test_list_in_another_encoding_raises_with_the_remedy(tmp_path: Path) -> None:
    write_files(tmp_path / "train_lst", {"all.lst": "0\tcafé\ta.jpg\n".encode("latin-1")})
    with pytest.raises(DataError, match=r"all\.lst is not UTF-8: byte 0xe9 at offset 5, line 1.*iconv"):
        open_list(tmp_path, {})


@pytest.mark.parametrize("lists", [{}, {"all.txt": "0\t0\ta.jpg"}])
def test_channel_without_lists_raises(tmp_path: Path, lists: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"'train_lst': no \.lst file.*separated by tabs"):
        open_list(tmp_path, lists)


def test_empty_lists_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'train_lst': its \.lst files are empty"):
        open_list(tmp_path, {"all.lst": "\n"})


GONE = "0\t0\ta.jpg\n1\t1\tx/b.jpg\n2\t1\tx/gone.jpg\n3\t1\tx/lost.jpg\n"


def test_missing_images_of_a_list_count_as_bad_records(tmp_path: Path) -> None:
    reader = open_list(tmp_path, {"all.lst": GONE}, max_bad_records=2)
    assert contents(reader) == {"a.jpg": ("0",), "x/b.jpg": ("1",)}
    assert [key for key, _ in reader.left_out] == ["x/gone.jpg", "x/lost.jpg"]
    assert reader.left_out[0][1].startswith("all.lst, line 3 names 'x/gone.jpg', but channel 'train' has no such file")
    with pytest.raises(
        DataError, match=r"line 4 names 'x/lost\.jpg'.*bad record number 2, max_bad_records=1.*raise max_bad"
    ):
        open_list(tmp_path, {"all.lst": GONE}, max_bad_records=1)
    with pytest.raises(DataError, match=r"line 3 names 'x/gone\.jpg'.*max_bad_records=0 allows none"):
        open_list(tmp_path, {"all.lst": GONE})


@pytest.mark.parametrize(
    ("lines", "message"),
    [("0\t0\ta.jpg\n1\t1\tgone.jpg\n", "every file of class '1' is missing"), ("1\t1\tgone.jpg\n", "every file of")],
)
def test_class_without_existing_images_raises(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_list(tmp_path, {"all.lst": lines}, max_bad_records=9)


@pytest.mark.parametrize(
    ("existing", "listed", "hint"),
    [
        (
            "a\u0308pfel.jpg",
            "\u00e4pfel.jpg",
            "looks the same: its name has decomposed Unicode.*the listed name composed",
        ),
        (
            "\u00e4pfel.jpg",
            "a\u0308pfel.jpg",
            "looks the same: its name has composed Unicode.*the listed name decomposed",
        ),
        ("a.JPG", "a.jpg", r"did you mean 'a\.JPG'"),
        ("x/a.jpg", "a.jpg", r"did you mean 'x/a\.jpg'"),
        ("a.jpg", "x/a.jpg", r"did you mean 'a\.jpg'"),
    ],
)
def test_missing_image_hints_at_a_similar_file(tmp_path: Path, existing: str, listed: str, hint: str) -> None:
    images = write_files(tmp_path / "train", {existing: b"", "other.jpg": b""})
    folder = write_files(tmp_path / "train_lst", {"all.lst": f"0\t0\t{listed}\n".encode()})
    with pytest.raises(DataError, match=hint):
        read_image_list(list_files("train", images), folder, multi_label=False)
