"""CIC-DDoS2019 (Sharafaldin et al. 2019): flows of two days with reflected and direct floods, made by CICFlowMeter.

Files: one CSV per attack and day, up to some gigabytes, with a header whose names mostly begin with a blank and in
which `Fwd Header Length` comes twice, as ` Fwd Header Length` and ` Fwd Header Length.1`. Labels are `BENIGN`
and the attack (`DrDoS_DNS`, `Syn`, `UDP-lag`, ...). The names here are the header's in small letters,
with _ for what is no letter.

Not verified on a real file, as none was at hand. The header and what follows were read in public excerpts of the files;
the tests run on a file written in that form; the relations below follow from how CICFlowMeter defines its columns, and
are to be measured (`measure.py`) before they are believed.

- Where `Flow Duration` is 0, `Flow Bytes/s` and `Flow Packets/s` are Infinity or NaN, while `Fwd Packets/s` of the same
  flow is 0. All are read as 0. Infinity in a flow with a duration is an error.
- Lengths of headers and windows may be negative (-1 where there is none; others are overflows), and are read so.

Left out: addresses, ports, time and flow number, which name the machines of the laboratory; `Inbound` and
`SimillarHTTP`; the second `Fwd Header Length`.

What a sender may change, declared by us: the forward side, upwards: packets, bytes and pauses. Means, deviations and
quotients of what is moved are free, or can only fall where a longer flow divides the victim's unchanged share.
"""

from sparring.domains.flow.layout import Layout
from sparring.domains.flow.schema import Change, Field, Kind, Schema

_UP = (
    *("flow_duration", "total_fwd_packets", "total_length_of_fwd_packets", "fwd_packet_length_max", "flow_iat_max"),
    *("fwd_iat_total", "fwd_iat_max", "max_packet_length", "subflow_fwd_packets", "subflow_fwd_bytes"),
    "act_data_pkt_fwd",
)
_FREE = (
    *("fwd_packet_length_min", "fwd_packet_length_mean", "fwd_packet_length_std", "flow_bytes_s", "flow_packets_s"),
    *("flow_iat_mean", "flow_iat_std", "flow_iat_min", "fwd_iat_mean", "fwd_iat_std", "fwd_iat_min", "fwd_packets_s"),
    *("min_packet_length", "packet_length_mean", "packet_length_std", "packet_length_variance", "average_packet_size"),
    "avg_fwd_segment_size",
)
_DOWN = ("bwd_packets_s", "down_up_ratio")


def _fields(kind: Kind, unit: str, names: str, low: float = 0.0) -> list[Field]:
    return [Field(name, kind, _change(name), low=low, log=low == 0 and unit != "", unit=unit) for name in names.split()]


def _change(name: str) -> Change:
    return "up" if name in _UP else "free" if name in _FREE else "down" if name in _DOWN else "fixed"


_ANY = float("-inf")

FIELDS = (
    Field("protocol", "category"),
    *_fields("integer", "microseconds", "flow_duration"),
    *_fields("integer", "packets", "total_fwd_packets total_backward_packets"),
    *_fields("real", "bytes", "total_length_of_fwd_packets total_length_of_bwd_packets"),
    *_fields("real", "bytes", "fwd_packet_length_max fwd_packet_length_min fwd_packet_length_mean"),
    *_fields("real", "bytes", "fwd_packet_length_std bwd_packet_length_max bwd_packet_length_min"),
    *_fields("real", "bytes", "bwd_packet_length_mean bwd_packet_length_std"),
    *_fields("real", "bytes/s", "flow_bytes_s"),
    *_fields("real", "packets/s", "flow_packets_s"),
    *_fields("real", "microseconds", "flow_iat_mean flow_iat_std flow_iat_max flow_iat_min fwd_iat_total fwd_iat_mean"),
    *_fields("real", "microseconds", "fwd_iat_std fwd_iat_max fwd_iat_min bwd_iat_total bwd_iat_mean bwd_iat_std"),
    *_fields("real", "microseconds", "bwd_iat_max bwd_iat_min"),
    *_fields("integer", "", "fwd_psh_flags bwd_psh_flags fwd_urg_flags bwd_urg_flags"),
    *_fields("integer", "bytes", "fwd_header_length bwd_header_length", _ANY),
    *_fields("real", "packets/s", "fwd_packets_s bwd_packets_s"),
    *_fields("real", "bytes", "min_packet_length max_packet_length packet_length_mean packet_length_std"),
    *_fields("real", "squared bytes", "packet_length_variance"),
    *_fields("integer", "", "fin_flag_count syn_flag_count rst_flag_count psh_flag_count ack_flag_count"),
    *_fields("integer", "", "urg_flag_count cwe_flag_count ece_flag_count"),
    *_fields("real", "", "down_up_ratio"),
    *_fields("real", "bytes", "average_packet_size avg_fwd_segment_size avg_bwd_segment_size"),
    *_fields("real", "", "fwd_avg_bytes_bulk fwd_avg_packets_bulk fwd_avg_bulk_rate"),
    *_fields("real", "", "bwd_avg_bytes_bulk bwd_avg_packets_bulk bwd_avg_bulk_rate"),
    *_fields("integer", "packets", "subflow_fwd_packets"),
    *_fields("integer", "bytes", "subflow_fwd_bytes"),
    *_fields("integer", "packets", "subflow_bwd_packets"),
    *_fields("integer", "bytes", "subflow_bwd_bytes"),
    *_fields("integer", "bytes", "init_win_bytes_forward init_win_bytes_backward", _ANY),
    *_fields("integer", "packets", "act_data_pkt_fwd"),
    *_fields("integer", "bytes", "min_seg_size_forward", _ANY),
    *_fields("real", "microseconds", "active_mean active_std active_max active_min"),
    *_fields("real", "microseconds", "idle_mean idle_std idle_max idle_min"),
)
"""In the order of the files."""

RELATIONS = (
    *(f"{of}_min <= {of}_mean" for of in ("fwd_packet_length", "flow_iat", "fwd_iat")),
    *(f"{of}_mean <= {of}_max" for of in ("fwd_packet_length", "flow_iat", "fwd_iat")),
    "min_packet_length <= packet_length_mean",
    "packet_length_mean <= max_packet_length",
    "total_length_of_fwd_packets <= total_fwd_packets * fwd_packet_length_max",
    "fwd_iat_total <= flow_duration",
    "act_data_pkt_fwd <= total_fwd_packets",
    "subflow_fwd_packets <= total_fwd_packets",
    "subflow_fwd_bytes <= total_length_of_fwd_packets",
    "avg_fwd_segment_size == fwd_packet_length_mean within 0.01",
    "flow_duration > 0 => flow_packets_s * flow_duration / 1000000 == total_fwd_packets + total_backward_packets "
    "within 0.01",
    "flow_duration > 0 => flow_bytes_s * flow_duration / 1000000 == total_length_of_fwd_packets + "
    "total_length_of_bwd_packets within 0.01",
    "flow_duration > 0 => fwd_packets_s * flow_duration / 1000000 == total_fwd_packets within 0.01",
    "flow_duration > 0 => bwd_packets_s * flow_duration / 1000000 == total_backward_packets within 0.01",
)
"""By definition of the columns; not measured on real flows."""

SCHEMA = Schema("cic-ddos2019", FIELDS, RELATIONS, "label", ("BENIGN",))

LAYOUT = Layout(SCHEMA, undefined={"flow_bytes_s": "flow_duration", "flow_packets_s": "flow_duration"})
