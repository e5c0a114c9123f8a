"""Hosts that lead to internal addresses, in every spelling that some URL parser accepts: attack row -> name, hosts."""

INNER: dict[int, tuple[str, str]] = {
    39: ("metadata services", "169.254.169.254 [fd00:ec2::254] 169.254.170.2 100.100.100.200"),
    40: (
        "this machine in odd spellings",
        "127.1 0x7f000001 2130706433 017700000001 [::ffff:127.0.0.1] localhost LOCALHOST. 127.0.1 0x7f.1 0177.0.0.1 0 "
        "0.0.0.0 [::1] [::] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:1] ①②⑦.⓪.⓪.① 127。0。0。1 127.0.0.1. [::127.0.0.1] "
        "127.0.0.1%00 2852039166 ①27.0.0.1 １２７．0．0．1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ loc\u00adalhost 127.0.0.1\u200b %31%32%37.0.0.1 "
        "127\uff610\uff610\uff611 %6cocalhost 127%2e0%2e0%2e1",
    ),
    41: (
        "inner networks that libraries take for public",
        "[2002:7f00:1::] [fec0::1] 192.0.0.192 168.63.129.16 [64:ff9b::7f00:1] [64:ff9b:1::1] [fe80::1] 100.64.0.1 "
        "198.18.0.1 192.88.99.1 [2001::1] [2001:db8::1] 240.0.0.1 224.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 [3fff::1] "
        "[5f00::1] 255.255.255.255",
    ),
}
