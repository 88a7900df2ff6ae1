import pytest

from tire_pipeline.datasets.labels import Columns, Labelled, from_csv, of_path, read_text
from tire_pipeline.errors import InputError


def test_a_folder_is_a_class_and_given_splits_stand_above_it() -> None:
    paths = ["good/1.jpg", "good/a/2.jpg", "test/bad/3.jpg", "train/4.jpg", "5.jpg"]
    assert {path: of_path(path) for path in paths} == {
        "good/1.jpg": Labelled("good"),
        "good/a/2.jpg": Labelled("good"),
        "test/bad/3.jpg": Labelled("bad", split="test"),
        "train/4.jpg": Labelled("train"),  # one folder alone is a class, whatever its name
        "5.jpg": Labelled(""),
    }


def test_rows_give_label_group_and_split_and_an_empty_label_is_for_prediction_only() -> None:
    text = "path,label,group,split,note\n./a b/ü.jpg, good ,t1,train,x\n2.jpg,,,,\n"
    assert from_csv(text) == {"a b/ü.jpg": Labelled("good", "t1", "train", '{"note":"x"}'), "2.jpg": Labelled()}


def test_columns_can_have_other_names() -> None:
    columns = Columns(path="image_path", label="target", group="tyre")
    assert from_csv("image_path,target,tyre\n1.jpg,bad,7\n", columns=columns) == {"1.jpg": Labelled("bad", "7")}


def test_other_columns_are_kept_where_they_divide_the_images() -> None:
    rows = [
        f"{i}.jpg,bad,t{i},{'side' if i % 2 else ' tread '},line-1,remark {i},{'crack' if i == 3 else ''}"
        for i in range(120)
    ]
    labelled = from_csv("\n".join(["path,label,group,view,line,remark,defect", *rows]))
    assert labelled["0.jpg"] == Labelled("bad", "t0", columns='{"view":"tread"}')
    assert labelled["3.jpg"].columns == '{"view":"side","defect":"crack"}'
    assert labelled["5.jpg"].columns is labelled["7.jpg"].columns  # a million rows hold few texts


def test_a_column_that_is_path_label_group_or_split_by_option_is_no_other_one() -> None:
    columns = Columns(path="file", label="view,target", group="tyre")
    text = "file,view,target,tyre,group,shift\n1.jpg,side,bad,7,a,\n2.jpg,tread,bad,8,b,night,too,many\n"
    labelled = from_csv(text, columns=columns)
    assert [row.columns for row in labelled.values()] == ['{"group":"a"}', '{"group":"b","shift":"night"}']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,class\n1.jpg,good\n", "no column 'label'; it has 'path', 'class'"),
        ("path;label\n1.jpg;good\n", "no column 'path'; it has 'path;label'"),
        ("", "no column 'path'; it has no header"),
        ("path,label\n1.jpg,good\n./1.jpg,bad\n", "line 3, gives '1.jpg' twice"),
        ("path,label\n,good\n", "line 2, has no path"),
        ("path,label,split\n1.jpg,good,valid\n", "line 2: the split 'valid' is none of train, val, test"),
        ("path,label,label\n1.jpg,good,bad\n", "has the column 'label' more than once. Give each column a name of its"),
        (f"path,{'x' * 2**18}\n", "line 1, cannot be read: field larger than field limit (131072)"),
        (
            'path,label\n1.jpg,good\n2.jpg,"good\n' + "3.jpg,good\n" * 2**14,
            "line 3, cannot be read: field larger than field limit (131072). Close the quote that is opened there",
        ),
    ],
)
def test_a_labels_file_that_cannot_be_used_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        from_csv(text, where="v1/labels.csv")
    assert str(refused.value).startswith("v1/labels.csv") and said in str(refused.value)


def test_the_commas_and_line_ends_of_spreadsheets_are_understood() -> None:
    assert from_csv("path,label,,\r1.jpg,good,,\r") == {"1.jpg": Labelled("good")}


def test_excels_mark_before_the_header_is_no_part_of_a_column() -> None:
    text = read_text("\ufeffpath,label\n1.jpg,gut\n".encode(), where="labels.csv")
    assert from_csv(text) == {"1.jpg": Labelled("gut")}


def test_text_that_is_not_utf8_is_refused_with_the_byte_and_the_fix() -> None:
    with pytest.raises(InputError, match=r"v1/labels.csv is not UTF-8 \(byte 12 is 0xfc\). Save it as 'CSV UTF-8'"):
        read_text("path,label\n1ü.jpg,good\n".encode("cp1252"), where="v1/labels.csv")


def test_text_with_a_nul_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"v1/labels.csv, line 2, has a NUL character\. Take it out, or save"):
        read_text(b"path,label,remark\n1.jpg,good,a\0b\n", where="v1/labels.csv")
