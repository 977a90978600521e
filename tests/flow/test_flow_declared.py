"""A schema of one's own, from TOML: what it says arrives, and what is wrong with it is named by its key."""

import pytest
from flows import written

from sparring.domains.flow.declared import declared
from sparring.domains.flow.layout import DataError
from sparring.domains.flow.read import read
from sparring.domains.flow.schema import Field, Schema

GOOD = """
name = "ours"
label = "what"
benign = ["ok"]
relations = ["out <= 1500 * packets", "kind == 'udp' => share <= 0.5"]

[[field]]
name = "out"
kind = "integer"
change = "up"
high = 1e9
log = true
unit = "bytes"

[[field]]
name = "packets"
kind = "integer"
change = "up"
low = 1

[[field]]
name = "share"
kind = "rate"
step = 0.01

[[field]]
name = "kind"
kind = "category"

[[field]]
name = "on"
kind = "flag"
"""


def test_a_schema_is_what_the_file_says(tmp_path):
    assert declared(written(tmp_path / "s.toml", GOOD)) == Schema(
        "ours",
        (
            Field("out", "integer", "up", high=1e9, log=True, unit="bytes"),
            Field("packets", "integer", "up", low=1.0),
            Field("share", "rate", high=1.0, step=0.01),
            Field("kind", "category"),
            Field("on", "flag", high=1.0),
        ),
        ("out <= 1500 * packets", "kind == 'udp' => share <= 0.5"),
        "what",
        ("ok",),
    )


def test_files_are_read_by_it(tmp_path):
    schema = declared(written(tmp_path / "s.toml", GOOD))
    path = written(tmp_path / "f.csv", "time,Kind,OUT,packets,share,on,what", "9,udp,100,2,0.25,1,flood")
    (table,) = read(path, schema=schema)
    assert {name: column.tolist() for name, column in table.columns.items()} == {
        "out": [100],
        "packets": [2],
        "share": [0.25],
        "kind": ["udp"],
        "on": [1],
    }
    assert table.malicious.tolist() == [True]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "ours"', "", r"'name' must be given"),
        ('name = "ours"', "name = 3", r"'name' must be a string. Got 3 instead"),
        ('label = "what"', 'lable = "what"', r"the keys must be name, label, .* Got 'lable'"),
        ('label = "what"', 'label = "out"', r"'label' must not be a field"),
        ('benign = ["ok"]', "", r"'benign' must say which labels mean no attack"),
        ('benign = ["ok"]', "benign = [1]", r"'benign\[0\]' must be a string. Got 1"),
        ("1500 * packets", "1500 * packet", r"'relations\[0\]': .*'packet' is none, at character 15"),
        ("kind == 'udp'", "kind == udp", r"'relations\[1\]': .*'udp' is none"),
        ("low = 1", 'low = "1"', r"'field\[1\].low' must be a number. Got '1'"),
        ("low = 1", "low = true", r"'field\[1\].low' must be a number. Got True"),
        ("low = 1", "low = nan", r"'field\[1\].low' must be a number. Got nan"),
        ("log = true", "log = 1", r"'field\[0\].log' must be true or false. Got 1"),
        ("low = 1", "least = 1", r"Got 'field\[1\].least'"),
        ("step = 0.01", "", r"'field\[2\]': A rate, and only a rate"),
        ('kind = "category"', 'kind = "word"', r"'field\[3\]': The 'kind' of 'kind' must be one of"),
        ('kind = "category"', "", r"'field\[3\].kind' must be given"),
        ('name = "packets"', 'name = "out"', r"'field': The fields of 'ours' must have different names"),
        ("high = 1e9", "high = 1e9 +", r"must be a TOML file"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path, old, new, message):
    assert GOOD.count(old) >= 1
    path = written(tmp_path / "s.toml", GOOD.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"s\.toml.*{message}"):
        declared(path)


def test_what_is_no_declaration_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'field' must be given: one \[\[field\]\] for each column"):
        declared(written(tmp_path / "a.toml", 'name = "x"'))
    with pytest.raises(DataError, match=r"'field\[0\]' must be a table"):
        declared(written(tmp_path / "b.toml", 'name = "x"', "field = [1]"))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        declared(tmp_path / "none.toml")
