//! Two hundred URLs that want to lead inside. Shared by all who call URLs of others.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// This machine and its neighbours, in every way of writing an IPv4 address that readers know.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let whole = address.to_bits();
    let v6 = |text: String| format!("[{text}]");
    let wide = |text: String| -> String {
        let full = |digit: char| char::from_u32(digit as u32 + 0xfee0).unwrap_or(digit);
        let map = |one: char| if one.is_ascii_digit() { full(one) } else { one };
        text.chars().map(map).collect()
    };
    let percent = |text: String| -> String {
        text.bytes()
            .fold(String::new(), |all, byte| format!("{all}%{byte:02x}"))
    };
    vec![
        format!("{a}.{b}.{c}.{d}"),
        format!("{a}.{b}.{c}.{d}."),
        whole.to_string(),
        format!("{whole:#x}"),
        format!("{whole:#X}"),
        format!("0{whole:o}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.{b}.{c}.{d}"),
        format!("{a}.{}", whole & 0xff_ffff),
        format!("{a}.{b}.{}", whole & 0xffff),
        format!("{a:#x}.{b}.0{c:o}.{d}"),
        wide(format!("{a}.{b}.{c}.{d}")),
        format!("{a}。{b}。{c}。{d}"),
        format!("{a}．{b}．{c}．{d}"),
        percent(format!("{a}.{b}.{c}.{d}")),
        v6(format!("::ffff:{a}.{b}.{c}.{d}")),
        v6(format!("::ffff:{:x}:{:x}", whole >> 16, whole & 0xffff)),
        v6(format!("0:0:0:0:0:ffff:{a}.{b}.{c}.{d}")),
        v6(format!("::{a}.{b}.{c}.{d}")),
        v6(format!("64:ff9b::{a}.{b}.{c}.{d}")),
        v6(format!("64:ff9b:1::{a}.{b}.{c}.{d}")),
        v6(format!("2002:{:x}:{:x}::1", whole >> 16, whole & 0xffff)),
        v6(format!("2606:4700::5efe:{a}.{b}.{c}.{d}")),
        format!("example.com@{a}.{b}.{c}.{d}"),
        format!("user:pass@{a}.{b}.{c}.{d}"),
        format!("@{a}.{b}.{c}.{d}"),
        format!("{a}.{b}.{c}.{d}\\@example.com"),
        format!("{a}.{b}.{c}.{d}\t"),
        format!("{a}.{b}.{c}.{d}%00.example.com"),
    ]
}

pub(crate) fn urls(port: u16) -> BTreeSet<String> {
    let inside = [
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(127, 127, 127, 127),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(192, 168, 1, 1),
        Ipv4Addr::new(100, 100, 100, 200),
    ];
    let hosts = inside.into_iter().flat_map(spellings);
    let mut all: BTreeSet<_> = hosts.map(|host| format!("http://{host}:{port}/")).collect();
    for host in [
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[::1%25lo]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "loc%61lhost",
        "ｌｏｃａｌｈｏｓｔ",
        "a.localhost",
        "127.1.example.0x7f",
        "256.256.256.256",
        "127.0.0.1.",
        "",
    ] {
        all.insert(format!("http://{host}:{port}/"));
    }
    for url in [
        "file:///etc/passwd",
        "gopher://127.0.0.1:70/",
        "ftp://127.0.0.1/",
        "dict://127.0.0.1:11211/",
        "javascript:alert(1)",
        "data:text/plain,x",
        "//127.0.0.1/",
        "http:127.0.0.1",
        "http:/127.0.0.1",
        "http:///127.0.0.1",
        "http:\\\\127.0.0.1",
        "http://127.0.0.1:22/",
        "http://127.0.0.1:6379/",
        "http://example.com:22/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://",
        "http://exa mple.com/",
        "http://example.com\r\nHost: x/",
        " http://example.com/",
        "",
    ] {
        all.insert(url.to_owned());
    }
    all
}
