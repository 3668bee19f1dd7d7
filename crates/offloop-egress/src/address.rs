//! Which addresses are public. Everything that is not known to be is refused.
//!
//! Sources: the IANA special-purpose registries (RFC 6890 and what followed), RFC 6052 (NAT64), RFC
//! 3056 (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP); addresses of metadata services from the
//! documents of the clouds.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why an address is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// This machine.
    Loopback,
    /// Nobody: 0.0.0.0 and ::, which lead to this machine.
    Unspecified,
    /// Of a network's own: RFC 1918, unique local.
    Private,
    /// Of carriers: 100.64.0.0/10.
    SharedCarrier,
    /// Of one link; clouds give out credentials there.
    LinkLocal,
    /// A cloud's own service. No configuration allows it.
    Metadata,
    Multicast,
    Documentation,
    /// For protocols, measurements, and what is not given out.
    Reserved,
    /// An IPv4 address in another's clothes that is itself forbidden, or a way of wrapping one that
    /// nobody needs.
    Embedded,
}

impl Forbidden {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "this machine (loopback)",
            Self::Unspecified => "no address (unspecified)",
            Self::Private => "of a private network",
            Self::SharedCarrier => "of a carrier's network (100.64.0.0/10)",
            Self::LinkLocal => "of one link (link-local)",
            Self::Metadata => "a cloud's metadata service",
            Self::Multicast => "multicast",
            Self::Documentation => "for documentation",
            Self::Reserved => "reserved",
            Self::Embedded => "an IPv4 address inside an IPv6 one",
        }
    }

    /// Whether a configured range may allow it: only what a network of one's own has.
    const fn may_be_allowed(self) -> bool {
        matches!(
            self,
            Self::Loopback | Self::Private | Self::SharedCarrier | Self::Reserved
        )
    }
}

/// What clouds answer at, outside of link-local ranges too.
const METADATA_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    base: IpAddr,
    bits: u8,
}

/// A text that is no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no range of addresses; give one such as 10.0.0.0/8 or fd00::/8")]
pub struct NetError;

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| NetError)?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| NetError)?;
        if bits > most {
            return Err(NetError);
        }
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl Net {
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differ = base.to_bits() ^ address.to_bits();
                bits == 0 || differ >> (32 - bits) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differ = base.to_bits() ^ address.to_bits();
                bits == 0 || differ >> (128 - bits) == 0
            }
            _ => false,
        }
    }
}

/// Whether this address may be connected to; `allow` has ranges of one's own networks.
pub(crate) fn check(address: IpAddr, allow: &[Net]) -> Result<(), Forbidden> {
    let plain = match address {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => unwrapped(v6)?,
    };
    let Some(why) = forbidden(plain) else {
        return Ok(());
    };
    let is_allowed = allow.iter().any(|net| net.contains(plain));
    match why {
        why if why.may_be_allowed() && is_allowed => Ok(()),
        _ if plain != address && why != Forbidden::Metadata => Err(Forbidden::Embedded),
        why => Err(why),
    }
}

/// The IPv4 address that an IPv6 one leads to, where it does.
fn unwrapped(address: Ipv6Addr) -> Result<IpAddr, Forbidden> {
    let parts = address.segments();
    let last = Ipv4Addr::from_bits(address.to_bits() as u32);
    match parts {
        // Mapped; and NAT64 with the well-known prefix: networks without IPv4 reach all of it so.
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Ok(IpAddr::V4(last)),
        // NAT64 of one's own, 6to4, Teredo, ISATAP: nobody needs them for a public server.
        [0x64, 0xff9b, 1, ..]
        | [0x2002, ..]
        | [0x2001, 0, ..]
        | [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => Err(Forbidden::Embedded),
        // IPv4-compatible; :: and ::1 are told by name below.
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => Err(Forbidden::Embedded),
        _ => Ok(IpAddr::V6(address)),
    }
}

fn forbidden(address: IpAddr) -> Option<Forbidden> {
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<Forbidden> {
    if METADATA_V4.contains(&address) {
        return Some(Forbidden::Metadata);
    }
    let why = match address.octets() {
        [0, 0, 0, 0] => Forbidden::Unspecified,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Forbidden::Private,
        [127, ..] => Forbidden::Loopback,
        [100, 64..=127, ..] => Forbidden::SharedCarrier,
        [169, 254, ..] => Forbidden::LinkLocal,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Forbidden::Documentation,
        [224..=239, ..] => Forbidden::Multicast,
        // This network; protocols; AS112; 6to4 relays; benchmarks; class E and broadcast.
        [0 | 240..=255, ..]
        | [192, 0, 0, _]
        | [192, 31, 196, _]
        | [192, 52, 193, _]
        | [192, 88, 99, _]
        | [192, 175, 48, _]
        | [198, 18..=19, ..] => Forbidden::Reserved,
        _ => return None,
    };
    Some(why)
}

fn forbidden_v6(address: Ipv6Addr) -> Option<Forbidden> {
    if METADATA_V6.contains(&address) {
        return Some(Forbidden::Metadata);
    }
    let why = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Forbidden::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Forbidden::Loopback,
        [0xfc00..=0xfdff, ..] => Forbidden::Private,
        [0xfe80..=0xfebf, ..] => Forbidden::LinkLocal,
        [0xff00..=0xffff, ..] => Forbidden::Multicast,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Forbidden::Documentation,
        // Protocols (2001::/23) and direct delegation AS112.
        [0x2001, 0..=0x1ff, ..] | [0x2620, 0x4f, 0x8000, ..] => Forbidden::Reserved,
        // Global unicast is given out from 2000::/3 alone.
        [0x2000..=0x3fff, ..] => return None,
        _ => Forbidden::Reserved,
    };
    Some(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, allow: &[Net]) -> Result<(), Forbidden> {
        check(text.parse().unwrap(), allow)
    }

    #[test]
    fn only_public_addresses_are_connected_to() {
        use Forbidden::{
            Documentation, Embedded, LinkLocal, Loopback, Metadata, Multicast, Private, Reserved,
            SharedCarrier, Unspecified,
        };
        #[rustfmt::skip]
        let rows = [
            ("0.0.0.0", Unspecified), ("0.1.2.3", Reserved), ("10.0.0.1", Private),
            ("10.255.255.255", Private), ("100.64.0.1", SharedCarrier), ("100.127.255.255", SharedCarrier),
            ("100.100.100.200", Metadata), ("127.0.0.1", Loopback), ("127.255.255.254", Loopback),
            ("168.63.129.16", Metadata), ("169.254.0.1", LinkLocal), ("169.254.169.254", Metadata),
            ("169.254.170.2", Metadata), ("172.16.0.1", Private), ("172.31.255.255", Private),
            ("192.0.0.1", Reserved), ("192.0.0.192", Metadata), ("192.0.2.1", Documentation),
            ("192.31.196.1", Reserved), ("192.52.193.1", Reserved), ("192.88.99.1", Reserved),
            ("192.168.0.1", Private), ("192.175.48.1", Reserved), ("198.18.0.1", Reserved),
            ("198.19.255.255", Reserved), ("198.51.100.1", Documentation), ("203.0.113.1", Documentation),
            ("224.0.0.1", Multicast), ("239.255.255.255", Multicast), ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("::", Unspecified), ("::1", Loopback), ("::7f00:1", Embedded), ("::a00:1", Embedded),
            ("::ffff:127.0.0.1", Embedded), ("::ffff:10.0.0.1", Embedded), ("::ffff:0.0.0.0", Embedded),
            ("::ffff:169.254.169.254", Metadata), ("64:ff9b::7f00:1", Embedded),
            ("64:ff9b::a9fe:a9fe", Metadata), ("64:ff9b:1::1", Embedded), ("2002:7f00:1::", Embedded),
            ("2002:808:808::1", Embedded), ("2001::1", Embedded), ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Embedded),
            ("2001:2::1", Reserved), ("2001:db8::1", Documentation), ("3fff::1", Documentation),
            ("fc00::1", Private), ("fd12:3456::1", Private), ("fd00:ec2::254", Metadata),
            ("fe80::1", LinkLocal), ("febf::1", LinkLocal), ("fec0::1", Reserved), ("ff02::1", Multicast),
            ("100::1", Reserved), ("4000::1", Reserved), ("2606:4700::200:5efe:7f00:1", Embedded),
            ("5f00::1", Reserved), ("2620:4f:8000::1", Reserved),
        ];
        for (text, want) in rows {
            assert_eq!(of(text, &[]), Err(want), "{text}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "198.17.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(of(public, &[]), Ok(()), "{public}");
        }
    }

    #[test]
    fn what_is_allowed_is_that_range_and_never_a_clouds_credentials() {
        let nets = |texts: &[&str]| -> Vec<Net> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let own = nets(&["10.1.0.0/16", "127.0.0.1", "fd00::/8"]);
        for (text, want) in [
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::ffff:10.1.2.3", true),
            ("fd12::1", true),
            ("fd00:ec2::254", false),
            ("::1", false),
        ] {
            assert_eq!(of(text, &own).is_ok(), want, "{text}");
        }
        let all = nets(&["0.0.0.0/0", "::/0"]);
        for text in [
            "169.254.169.254",
            "169.254.1.1",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(of(text, &all).is_err(), "{text}");
        }
        assert!(of("10.0.0.1", &all).is_ok() && of("127.0.0.1", &all).is_ok());
        for bad in ["", "10", "10.0.0.0/33", "fd00::/129", "10.0.0.0/x", "x/8"] {
            assert_eq!(bad.parse::<Net>(), Err(NetError), "{bad}");
        }
    }
}
