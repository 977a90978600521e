"""Files in the published forms, written for the tests, and the real ones where SPARRING_DATA has them."""

import os
from functools import cache
from pathlib import Path

import pytest

from sparring.domains.flow.read import read
from sparring.domains.flow.table import Table

DATA = os.environ.get("SPARRING_DATA", "")

needs_nsl_kdd = pytest.mark.skipif(
    not (Path(DATA) / "nsl_kdd").is_dir(), reason="SPARRING_DATA has no folder nsl_kdd with the real files"
)
needs_unsw_nb15 = pytest.mark.skipif(
    not (Path(DATA) / "unsw_nb15").is_dir(), reason="SPARRING_DATA has no folder unsw_nb15 with the real file"
)

NSL_KDD = (
    "0,tcp,http,SF,215,45076,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0,0,1,1,0.00,0.00,0.00,0.00,1.00,0.00,0.00,0,0,0.00,0.00,0.00,"
    "0.00,0.00,0.00,0.00,0.00,normal,21",
    "0,tcp,private,S0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,200,10,1.00,1.00,0.00,0.00,0.05,0.07,0.00,255,10,0.04,0.06,"
    "0.00,0.00,1.00,1.00,0.00,0.00,neptune,21",
    "0,icmp,ecr_i,SF,1032,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,511,511,0.00,0.00,0.00,0.00,1.00,0.00,0.00,255,255,1.00,"
    "0.00,1.00,0.00,0.00,0.00,0.00,0.00,smurf,18",
)
"""Three rows of ours in the form of the .txt files."""

UNSW_HEADER = (
    "id,dur,proto,service,state,spkts,dpkts,sbytes,dbytes,rate,sttl,dttl,sload,dload,sloss,dloss,sinpkt,dinpkt,sjit,"
    "djit,swin,stcpb,dtcpb,dwin,tcprtt,synack,ackdat,smean,dmean,trans_depth,response_body_len,ct_srv_src,ct_state_ttl,"
    "ct_dst_ltm,ct_src_dport_ltm,ct_dst_sport_ltm,ct_dst_src_ltm,is_ftp_login,ct_ftp_cmd,ct_flw_http_mthd,ct_src_ltm,"
    "ct_srv_dst,is_sm_ips_ports,attack_cat,label"
)
UNSW_ROW = (
    "{id},0.5,udp,dns,CON,2,2,200,300,6,64,63,1600,2400,0,0,500,400,0,0,0,0,0,0,0,0,0,100,150,0,0,1,0,1,1,1,1,0,0,0,1,"
    "1,0,{cat},{label}"
)

CIC_HEADER = (
    "Unnamed: 0,Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol, Timestamp, Flow Duration,"
    " Total Fwd Packets, Total Backward Packets,Total Length of Fwd Packets, Total Length of Bwd Packets,"
    " Fwd Packet Length Max, Fwd Packet Length Min, Fwd Packet Length Mean, Fwd Packet Length Std,"
    "Bwd Packet Length Max, Bwd Packet Length Min, Bwd Packet Length Mean, Bwd Packet Length Std,Flow Bytes/s,"
    " Flow Packets/s, Flow IAT Mean, Flow IAT Std, Flow IAT Max, Flow IAT Min,Fwd IAT Total, Fwd IAT Mean,"
    " Fwd IAT Std, Fwd IAT Max, Fwd IAT Min,Bwd IAT Total, Bwd IAT Mean, Bwd IAT Std, Bwd IAT Max, Bwd IAT Min,"
    "Fwd PSH Flags, Bwd PSH Flags, Fwd URG Flags, Bwd URG Flags, Fwd Header Length, Bwd Header Length,Fwd Packets/s,"
    " Bwd Packets/s, Min Packet Length, Max Packet Length, Packet Length Mean, Packet Length Std,"
    " Packet Length Variance,FIN Flag Count, SYN Flag Count, RST Flag Count, PSH Flag Count, ACK Flag Count,"
    " URG Flag Count, CWE Flag Count, ECE Flag Count, Down/Up Ratio, Average Packet Size, Avg Fwd Segment Size,"
    " Avg Bwd Segment Size, Fwd Header Length.1,Fwd Avg Bytes/Bulk, Fwd Avg Packets/Bulk, Fwd Avg Bulk Rate,"
    " Bwd Avg Bytes/Bulk, Bwd Avg Packets/Bulk,Bwd Avg Bulk Rate,Subflow Fwd Packets, Subflow Fwd Bytes,"
    " Subflow Bwd Packets, Subflow Bwd Bytes,Init_Win_bytes_forward, Init_Win_bytes_backward, act_data_pkt_fwd,"
    " min_seg_size_forward,Active Mean, Active Std, Active Max, Active Min,Idle Mean, Idle Std, Idle Max, Idle Min,"
    "SimillarHTTP, Inbound, Label"
)


def cic_row(duration: int = 4, per_second: str = "", label: str = "DrDoS_DNS", packets_s: str = "") -> str:
    """One flow of two forward packets of 300 bytes, by definition of the columns; per_second overrides Flow Bytes/s."""
    rate = 2e6 / duration if duration else 0.0
    cells = {name.strip(): "0" for name in CIC_HEADER.split(",")}
    known = {
        "Flow ID": "10.0.0.1-10.0.0.2-53-99-17",
        "Source IP": "10.0.0.1",
        "Destination IP": "10.0.0.2",
        "Timestamp": "2018-12-01 10:00:00.000001",
        "Protocol": "17",
        "Flow Duration": str(duration),
        "Total Fwd Packets": "2",
        "Total Length of Fwd Packets": "600.0",
        "Flow Bytes/s": per_second or (str(600e6 / duration) if duration else "Infinity"),
        "Flow Packets/s": packets_s or (str(rate) if duration else "Infinity"),
        "Fwd Packets/s": str(rate),
        "Fwd Header Length": "-2",
        "Fwd Header Length.1": "77",
        "Average Packet Size": "450.0",
        "Subflow Fwd Packets": "2",
        "Subflow Fwd Bytes": "600",
        "Init_Win_bytes_forward": "-1",
        "Init_Win_bytes_backward": "-1",
        "act_data_pkt_fwd": "1",
        "min_seg_size_forward": "-1",
        "Inbound": "1",
        "Label": label,
    }
    for name in ("Fwd Packet Length Max", "Fwd Packet Length Min", "Fwd Packet Length Mean", "Min Packet Length"):
        known[name] = "300.0"
    for name in ("Max Packet Length", "Packet Length Mean", "Avg Fwd Segment Size"):
        known[name] = "300.0"
    for name in ("Flow IAT Mean", "Flow IAT Max", "Flow IAT Min"):
        known[name] = str(float(duration))
    for name in ("Fwd IAT Total", "Fwd IAT Mean", "Fwd IAT Max", "Fwd IAT Min"):
        known[name] = str(float(duration))
    assert set(known) <= set(cells)
    return ",".join((cells | known).values())


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@cache
def real(name: str) -> tuple[Table, ...]:
    """The real tables of a set, read once."""
    return read(name, DATA)
