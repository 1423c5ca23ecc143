//! Who a request comes from, as far as addresses say: behind which proxies, from which network.

use std::net::{IpAddr, Ipv6Addr};

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// As IPv6; those of IPv4 are mapped.
    address: u128,
    /// Bits that count, of 128.
    bits: u32,
}

impl Network {
    /// Reads `address` or `address/bits`.
    pub fn read(text: &str) -> Option<Self> {
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = match (address, bits) {
            (IpAddr::V4(_), Some(bits)) if bits <= 32 => bits + 96,
            (IpAddr::V6(_), Some(bits)) if bits <= 128 => bits,
            (_, None) => 128,
            _ => return None,
        };
        Some(Self { address: number(address), bits })
    }

    /// Whether the address is in it.
    pub fn holds(&self, address: IpAddr) -> bool {
        let other = 128 - self.bits;
        let cut = |number: u128| number.checked_shr(other).unwrap_or(0);
        cut(self.address) == cut(number(address))
    }
}

/// Whose request it is. `peer` is at the other end of the connection; `forwarded` what `X-Forwarded-For` says, its lines
/// in order. It is believed only as far back as `trusted` proxies wrote it.
pub fn origin<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[Network],
) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|network| network.holds(address));
    let mut origin = peer;
    let hops = forwarded.rev().flat_map(|line| line.rsplit(','));
    for hop in hops {
        if !is_trusted(origin) {
            break;
        }
        // Whatever is no address was not written by a proxy of ours.
        let Some(address) = address(hop.trim()) else { break };
        origin = address;
    }
    origin
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<std::net::SocketAddr>().ok()?.ip()))
}

/// What counts as one place: an address of IPv4, or a network of IPv6 of the size that one customer gets (`/64`).
pub fn place(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => number(IpAddr::V4(address)),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}

fn number(address: IpAddr) -> u128 {
    let address: Ipv6Addr = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    address.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_what_is_in_them() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("fd00::/8", "fdff::1", "fe80::1"),
            ("::1/128", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
            ("::/0", "8.8.8.8", "x"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "x"),
        ] {
            let range = Network::read(network).unwrap();
            assert!(range.holds(ip(inside)), "{network} {inside}");
            assert!(outside == "x" || !range.holds(ip(outside)), "{network} {outside}");
        }
        for wrong in ["", "a", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0"] {
            assert_eq!(Network::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = [Network::read("10.0.0.0/8").unwrap(), Network::read("::1").unwrap()];
        let of = |peer, lines: &[&str]| origin(ip(peer), lines.iter().copied(), &trusted);
        assert_eq!(of("203.0.113.9", &["1.1.1.1"]), ip("203.0.113.9"), "anybody can write that");
        assert_eq!(of("10.0.0.1", &["1.1.1.1"]), ip("1.1.1.1"));
        assert_eq!(
            of("10.0.0.1", &["6.6.6.6, 1.1.1.1"]),
            ip("1.1.1.1"),
            "the caller wrote 6.6.6.6"
        );
        assert_eq!(of("10.0.0.1", &["6.6.6.6", "1.1.1.1, 10.2.0.1"]), ip("1.1.1.1"));
        assert_eq!(of("10.0.0.1", &["10.0.0.2"]), ip("10.0.0.2"), "all of them are ours");
        assert_eq!(of("10.0.0.1", &["unknown"]), ip("10.0.0.1"));
        assert_eq!(of("::1", &["[2001:db8::1]:80"]), ip("2001:db8::1"));
        assert_eq!(of("::1", &["1.2.3.4:80"]), ip("1.2.3.4"));
        assert_eq!(of("10.0.0.1", &[]), ip("10.0.0.1"));
    }

    #[test]
    fn a_customer_is_one_place() {
        assert_eq!(place(ip("2001:db8::1")), place(ip("2001:db8::ffff:1")));
        assert_ne!(place(ip("2001:db8:0:1::1")), place(ip("2001:db8::1")));
        assert_ne!(place(ip("192.0.2.1")), place(ip("192.0.2.2")));
        assert_eq!(place(ip("::ffff:192.0.2.1")), place(ip("192.0.2.1")));
    }
}
