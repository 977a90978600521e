"""NSL-KDD (Tavallaee et al. 2009): 41 features of connections of the KDD Cup 1999 data, without its repetitions.

Files: `KDDTrain+.txt`, `KDDTrain+_20Percent.txt`, `KDDTest+.txt` and others, CSV without header: the features, the name
of the attack or `normal`, and a difficulty, which is how many of 21 reference classifiers were right and no feature.
The same rows as ARFF have no difficulty, and `normal` or `anomaly` for a label.

Verified on the real `KDDTrain+_20Percent.txt` (25,192 rows) and `KDDTest+.txt` (22,544 rows): every relation below
holds on all rows of both. The ARFF form was tested on files written for the test, with the published header.

What the sender of a denial of service may change, declared by us: how long its connections last and how much it sends
(upwards only); how many connections there are in the window of two seconds and what share of them is of which kind; how
many of the last hundred connections are to the victim. Not: what the victim sends, protocol, service and flag, the
content of sessions, and the shares among the last hundred connections.
"""

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.layout import Layout
from sparring.domains.flow.schema import Change, Field, Schema


def _number(name: str, change: Change = "fixed", unit: str = "", high: float = float("inf")) -> Field:
    return Field(name, "integer", change, high=high, log=unit in ("bytes", "seconds"), unit=unit)


def _rate(name: str, change: Change = "fixed") -> Field:
    return Field(name, "rate", change, high=1.0, step=0.01, unit="share")


_WINDOW = 511
"""The most connections that the window of two seconds counts."""

_HOSTS = 255
"""The most connections that the window of a hundred connections to a host counts, as the files have it."""

FIELDS = (
    _number("duration", "up", "seconds"),
    Field("protocol_type", "category"),
    Field("service", "category"),
    Field("flag", "category"),
    _number("src_bytes", "up", "bytes"),
    _number("dst_bytes", unit="bytes"),
    Field("land", "flag", high=1.0),
    *(_number(name) for name in ("wrong_fragment", "urgent", "hot", "num_failed_logins")),
    Field("logged_in", "flag", high=1.0),
    _number("num_compromised"),
    Field("root_shell", "flag", high=1.0),
    *(_number(name) for name in ("su_attempted", "num_root", "num_file_creations", "num_shells", "num_access_files")),
    _number("num_outbound_cmds"),
    Field("is_host_login", "flag", high=1.0),
    Field("is_guest_login", "flag", high=1.0),
    _number("count", "free", "connections", _WINDOW),
    _number("srv_count", "free", "connections", _WINDOW),
    *(_rate(name, "free") for name in ("serror_rate", "srv_serror_rate", "rerror_rate", "srv_rerror_rate")),
    *(_rate(name, "free") for name in ("same_srv_rate", "diff_srv_rate", "srv_diff_host_rate")),
    _number("dst_host_count", "free", "connections", _HOSTS),
    _number("dst_host_srv_count", "free", "connections", _HOSTS),
    *(_rate(f"dst_host_{name}_rate") for name in ("same_srv", "diff_srv", "same_src_port", "srv_diff_host")),
    *(_rate(f"dst_host_{name}_rate") for name in ("serror", "srv_serror", "rerror", "srv_rerror")),
)
"""In the order of the files. `su_attempted` is documented as a flag but has 2 in some rows, so it is an integer."""

RELATIONS = (
    *(f"{of}serror_rate + {of}rerror_rate <= 1.01" for of in ("", "srv_", "dst_host_", "dst_host_srv_")),
    "protocol_type in {'udp', 'icmp'} => flag == 'SF'",
    "flag == 'S0' => src_bytes == 0",
    "flag == 'S0' => dst_bytes == 0",
    "protocol_type == 'icmp' => dst_bytes == 0",
    "logged_in == 1 => protocol_type == 'tcp'",
    "wrong_fragment > 0 => protocol_type != 'tcp'",
    "num_outbound_cmds == 0",
    "srv_diff_host_rate > 0 => srv_count > 1",
    "root_shell == 1 => protocol_type == 'tcp'",
    "same_srv_rate <= srv_count / count + 0.02",
    "dst_host_same_srv_rate <= dst_host_srv_count / dst_host_count + 0.02",
)
"""Each holds on every row of both files. The last two are ours: connections of one kind to one host are no more than
those of that kind to all hosts; 0.02 is for rounding to hundredths and for counts that are cut off."""

SOFT = (
    "same_srv_rate == min(1, srv_count / count) within 0.02",
    "is_guest_login == 1 => logged_in == 1",
)
"""Nearly always so (99.7 % and 97.6 % of the rows of the two files; all but one and 99.6 %), and so not imposed."""

FALSE = (
    "dst_host_srv_count <= dst_host_count",
    "same_srv_rate + diff_srv_rate <= 1.01",
)
"""They look true and are not (72.6 % and 98.2 % of the training rows)."""

SCHEMA = Schema("nsl-kdd", FIELDS, RELATIONS, "label", ("normal",))

LAYOUT = Layout(SCHEMA, (*SCHEMA.names, "label", "difficulty"), {"class": "label"})

_CLASSES = {
    "dos": "neptune smurf back teardrop pod land apache2 udpstorm processtable mailbomb worm",
    "probe": "satan ipsweep portsweep nmap mscan saint",
    "r2l": "guess_passwd ftp_write imap phf multihop warezmaster warezclient spy xlock xsnoop snmpguess snmpgetattack "
    "httptunnel sendmail named",
    "u2r": "buffer_overflow loadmodule perl rootkit sqlattack xterm ps",
}

ATTACKS = {name: kind for kind, names in _CLASSES.items() for name in names.split()}
"""Name of an attack -> dos, probe, r2l or u2r. Authors differ on `worm`, here dos, and on `httptunnel`, here r2l."""


def classes(labels: NDArray[np.object_]) -> NDArray[np.object_]:
    """`normal`, `dos`, `probe`, `r2l` or `u2r` for each label, `[N]`.

    Raises:
        ValueError: for a label that is not among them, as `anomaly` of the ARFF files, which does not tell.
    """
    known = {"normal": "normal", **ATTACKS}
    unknown = sorted(set(labels.tolist()) - set(known))
    if unknown:
        raise ValueError(f"The labels must be normal or one of the {len(ATTACKS)} attacks. Got {', '.join(unknown)}.")
    return np.array([known[label] for label in labels.tolist()], object)
