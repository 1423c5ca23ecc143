//! Which addresses the gateway goes to for somebody else: a caller's server, a page that a search found.
//!
//! An address is judged as Python's `ipaddress` judges it, as the reference gateway does, and in a few places more
//! strictly: what is shared by the customers of a carrier, relays of 6to4, and whole blocks that the registries keep for
//! protocols are nobody's web server. A name is as good as the worst of its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why the gateway does not go to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It means every address of this machine.
    Unspecified,
    /// This machine.
    Loopback,
    /// The same wire; clouds keep their metadata there.
    LinkLocal,
    /// Many at once.
    Multicast,
    /// A network of somebody's own, or one that is never routed.
    Private,
    /// Kept for protocols, or for later.
    Reserved,
}

impl Reason {
    /// As refusals write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified (0.0.0.0/::)",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Private => "in a private range (RFC 1918 / ULA)",
            Self::Reserved => "in a reserved range",
        }
    }
}

/// Why the gateway does not go to an address that is no public one; `None`: it is public.
pub fn reason(address: IpAddr) -> Option<Reason> {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(inner) => mapped(inner),
            None => v6(address),
        },
    }
}

/// Ranges of IPv4 that are private to Python, beside the well-known three: (network, prefix).
const PRIVATE_V4: [([u8; 4], u32); 12] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([240, 0, 0, 0], 4),
];

/// Beyond Python: carriers' networks, in which some clouds keep metadata, and the relays of 6to4.
const RESERVED_V4: [([u8; 4], u32); 2] = [([100, 64, 0, 0], 10), ([192, 88, 99, 0], 24)];

/// Ranges of IPv6 that are private to Python: a local form of NAT64, discarded packets, protocols (Teredo is among
/// them), benchmarks and documentation, 6to4, local networks; `fec0::/10` is an older form of the last.
const PRIVATE_V6: [([u16; 3], u32); 8] = [
    ([0x64, 0xff9b, 1], 48),
    ([0x100, 0, 0], 64),
    ([0x2001, 0, 0], 23),
    ([0x2001, 0xdb8, 0], 32),
    ([0x2002, 0, 0], 16),
    ([0x3fff, 0, 0], 20),
    ([0xfc00, 0, 0], 7),
    ([0xfec0, 0, 0], 10),
];

fn v4(address: Ipv4Addr) -> Option<Reason> {
    let of = |(network, prefix): &([u8; 4], u32)| {
        (u32::from(address) ^ u32::from(Ipv4Addr::from(*network))) >> (32 - prefix) == 0
    };
    if address.is_unspecified() {
        Some(Reason::Unspecified)
    } else if address.is_loopback() {
        Some(Reason::Loopback)
    } else if address.is_link_local() {
        Some(Reason::LinkLocal)
    } else if address.is_multicast() {
        Some(Reason::Multicast)
    } else if PRIVATE_V4.iter().any(of) {
        Some(Reason::Private)
    } else {
        RESERVED_V4.iter().any(of).then_some(Reason::Reserved)
    }
}

/// IPv4 in IPv6. Python knows no link-local and no unspecified one of these: they are in its private ranges.
fn mapped(inner: Ipv4Addr) -> Option<Reason> {
    match v4(inner)? {
        Reason::LinkLocal | Reason::Unspecified => Some(Reason::Private),
        other => Some(other),
    }
}

fn v6(address: Ipv6Addr) -> Option<Reason> {
    let of = |([a, b, c], prefix): &([u16; 3], u32)| {
        let network = u128::from(Ipv6Addr::new(*a, *b, *c, 0, 0, 0, 0, 0));
        (u128::from(address) ^ network) >> (128 - prefix) == 0
    };
    // Global unicast is all that anybody has been given; `::/8`, with NAT64 in it, is not part of it.
    let is_given = address.segments()[0] >> 13 == 1;
    if address.is_unspecified() {
        Some(Reason::Unspecified)
    } else if address.is_loopback() {
        Some(Reason::Loopback)
    } else if address.is_unicast_link_local() {
        Some(Reason::LinkLocal)
    } else if address.is_multicast() {
        Some(Reason::Multicast)
    } else if PRIVATE_V6.iter().any(of) {
        Some(Reason::Private)
    } else {
        (!is_given).then_some(Reason::Reserved)
    }
}

/// What an address is for; refusals speak of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A server that a caller names: of tools, or of checks.
    Server,
    /// A page that a search found.
    Page,
}

/// Where the gateway goes for a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What for.
    pub purpose: Purpose,
    /// To every address. Scheme and token are looked at all the same.
    pub allow_private: bool,
    /// To this machine.
    pub allow_loopback: bool,
}

/// Why the gateway does not go to a URL: a sentence for whoever wrote it, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(pub String);

impl Rules {
    /// For servers that callers name.
    pub fn servers(allow_private: bool, allow_loopback: bool) -> Self {
        Self { purpose: Purpose::Server, allow_private, allow_loopback }
    }

    /// For pages. Nothing on this machine is one.
    pub fn pages(allow_private: bool) -> Self {
        Self { purpose: Purpose::Page, allow_private, allow_loopback: false }
    }

    /// Judges what can be told without addresses. `has_token`: a credential goes along.
    ///
    /// # Errors
    /// Another scheme than `http` and `https`, `http` with a token, no host.
    pub fn url(&self, scheme: &str, host: Option<&str>, has_token: bool) -> Result<(), Forbidden> {
        let what = self.what();
        let scheme = scheme.to_ascii_lowercase();
        let no = |text: String| Err(Forbidden(text));
        match &*scheme {
            "https" => {}
            "http" if has_token => {
                return no(format!("{what} URL must use https when an authorization_token is set"));
            }
            "http" => {}
            other => return no(format!("{what} URL must use http or https, got '{other}'")),
        }
        if host.is_none_or(str::is_empty) {
            return no(format!("{what} URL must include a hostname"));
        }
        Ok(())
    }

    /// Judges every address of a host; one bad address is enough, because nobody knows which of them is taken.
    ///
    /// # Errors
    /// When there is none, or one of them is not public, unless any address is allowed.
    pub fn addresses(&self, host: &str, addresses: &[IpAddr]) -> Result<(), Forbidden> {
        if self.allow_private {
            return Ok(());
        }
        let (what, switch) = (self.what(), self.switch());
        let host = host.to_ascii_lowercase();
        if addresses.is_empty() {
            let when = match self.purpose {
                Purpose::Server => " at validation time",
                Purpose::Page => "",
            };
            let because = match self.purpose {
                Purpose::Server => " (a later lookup could resolve to a private address)",
                Purpose::Page => "",
            };
            return Err(Forbidden(format!(
                "{what} host '{host}' could not be resolved{when}; rejecting to avoid DNS-rebinding{because}. Set \
                 {switch}=true to override."
            )));
        }
        for address in addresses {
            match reason(*address) {
                None => {}
                Some(Reason::Loopback) if self.allow_loopback => {}
                Some(reason) => {
                    return Err(Forbidden(format!(
                        "{what} host '{host}' resolves to {address} which is {}; rejecting to prevent SSRF. Set \
                         {switch}=true to override.",
                        reason.as_str()
                    )));
                }
            }
        }
        Ok(())
    }

    fn what(&self) -> &'static str {
        match self.purpose {
            Purpose::Server => "MCP server",
            Purpose::Page => "fetch",
        }
    }

    /// The variable that lifts the rules.
    fn switch(&self) -> &'static str {
        match self.purpose {
            Purpose::Server => "OTARI_MCP_ALLOW_PRIVATE_HOSTS",
            Purpose::Page => "OTARI_WEB_SEARCH_ALLOW_PRIVATE_HOSTS",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Option<Reason> = None;
    const UNSPECIFIED: Option<Reason> = Some(Reason::Unspecified);
    const LOOPBACK: Option<Reason> = Some(Reason::Loopback);
    const LINK_LOCAL: Option<Reason> = Some(Reason::LinkLocal);
    const MULTICAST: Option<Reason> = Some(Reason::Multicast);
    const PRIVATE: Option<Reason> = Some(Reason::Private);
    const RESERVED: Option<Reason> = Some(Reason::Reserved);

    fn are_told(addresses: &[(&str, Option<Reason>)]) {
        for (text, want) in addresses {
            assert_eq!(reason(text.parse().unwrap()), *want, "{text}");
        }
    }

    #[test]
    fn addresses_of_ipv4_are_told_by_their_ranges() {
        are_told(&[
            ("0.0.0.0", UNSPECIFIED),
            ("0.0.0.1", PRIVATE),
            ("0.255.255.255", PRIVATE),
            ("1.0.0.0", PUBLIC),
            ("1.1.1.1", PUBLIC),
            ("9.255.255.255", PUBLIC),
            ("10.0.0.0", PRIVATE),
            ("10.255.255.255", PRIVATE),
            ("11.0.0.0", PUBLIC),
            ("100.63.255.255", PUBLIC),
            ("100.64.0.0", RESERVED),
            ("100.100.100.200", RESERVED),
            ("100.127.255.255", RESERVED),
            ("100.128.0.0", PUBLIC),
            ("126.255.255.255", PUBLIC),
            ("127.0.0.1", LOOPBACK),
            ("127.255.255.255", LOOPBACK),
            ("128.0.0.0", PUBLIC),
            ("169.253.255.255", PUBLIC),
            ("169.254.0.0", LINK_LOCAL),
            ("169.254.169.254", LINK_LOCAL),
            ("169.255.0.0", PUBLIC),
            ("172.15.255.255", PUBLIC),
            ("172.16.0.0", PRIVATE),
            ("172.31.255.255", PRIVATE),
            ("172.32.0.0", PUBLIC),
            ("191.255.255.255", PUBLIC),
            ("192.0.0.0", PRIVATE),
            ("192.0.0.192", PRIVATE),
            ("192.0.1.0", PUBLIC),
            ("192.0.2.1", PRIVATE),
            ("192.88.98.255", PUBLIC),
            ("192.88.99.1", RESERVED),
            ("192.88.100.0", PUBLIC),
            ("192.167.255.255", PUBLIC),
            ("192.168.0.1", PRIVATE),
            ("192.169.0.0", PUBLIC),
            ("198.17.255.255", PUBLIC),
            ("198.18.0.0", PRIVATE),
            ("198.19.255.255", PRIVATE),
            ("198.20.0.0", PUBLIC),
            ("198.51.100.7", PRIVATE),
            ("203.0.113.7", PRIVATE),
            ("223.255.255.255", PUBLIC),
            ("224.0.0.1", MULTICAST),
            ("239.255.255.255", MULTICAST),
            ("240.0.0.1", PRIVATE),
            ("255.255.255.255", PRIVATE),
        ]);
    }

    #[test]
    fn addresses_of_ipv6_are_told_by_their_ranges() {
        are_told(&[
            ("::", UNSPECIFIED),
            ("::1", LOOPBACK),
            ("::2", RESERVED),
            ("::7f00:1", RESERVED),
            ("::ffff:0.0.0.0", PRIVATE),
            ("::ffff:127.0.0.1", LOOPBACK),
            ("::ffff:169.254.169.254", PRIVATE),
            ("::ffff:10.1.2.3", PRIVATE),
            ("::ffff:100.64.0.1", RESERVED),
            ("::ffff:224.0.0.1", MULTICAST),
            ("::ffff:8.8.8.8", PUBLIC),
            ("64:ff9b::7f00:1", RESERVED),
            ("64:ff9b::808:808", RESERVED),
            ("64:ff9b:1::a00:1", PRIVATE),
            ("64:ff9b:2::", RESERVED),
            ("100::1", PRIVATE),
            ("100:0:0:1::", RESERVED),
            ("1fff:ffff::", RESERVED),
            ("2000::", PUBLIC),
            ("2001::7f00:1", PRIVATE),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", PRIVATE),
            ("2001:1ff:ffff::", PRIVATE),
            ("2001:200::", PUBLIC),
            ("2001:4860:4860::8888", PUBLIC),
            ("2001:db7:ffff::", PUBLIC),
            ("2001:db8::1", PRIVATE),
            ("2001:db9::", PUBLIC),
            ("2002:7f00:1::", PRIVATE),
            ("2002:808:808::", PRIVATE),
            ("2003::", PUBLIC),
            ("2606:4700:4700::1111", PUBLIC),
            ("3ffe:ffff::", PUBLIC),
            ("3fff:fff::", PRIVATE),
            ("3fff:1000::", PUBLIC),
            ("4000::", RESERVED),
            ("5f00::1", RESERVED),
            ("fbff::", RESERVED),
            ("fc00::1", PRIVATE),
            ("fd00:ec2::254", PRIVATE),
            ("fdff:ffff::", PRIVATE),
            ("fe00::", RESERVED),
            ("fe80::1", LINK_LOCAL),
            ("febf::1", LINK_LOCAL),
            ("fec0::1", PRIVATE),
            ("feff::1", PRIVATE),
            ("ff02::1", MULTICAST),
        ]);
    }

    fn said(result: Result<(), Forbidden>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn servers_are_refused_in_the_words_of_the_reference() {
        let rules = Rules::servers(false, true);
        let bad = [IpAddr::from([93, 184, 216, 34]), IpAddr::from([169, 254, 169, 254])];
        assert_eq!(rules.url("https", Some("a"), true), Ok(()));
        assert_eq!(rules.url("HTTP", Some("a"), false), Ok(()));
        for (got, want) in [
            (
                rules.url("FTP", Some("a"), false),
                "MCP server URL must use http or https, got 'ftp'",
            ),
            (
                rules.url("http", Some("a"), true),
                "MCP server URL must use https when an authorization_token is set",
            ),
            (rules.url("http", None, false), "MCP server URL must include a hostname"),
            (
                rules.addresses("Nowhere.Example", &[]),
                "MCP server host 'nowhere.example' could not be resolved at validation time; rejecting to avoid \
                 DNS-rebinding (a later lookup could resolve to a private address). Set \
                 OTARI_MCP_ALLOW_PRIVATE_HOSTS=true to override.",
            ),
            (
                rules.addresses("Two.Example", &bad),
                "MCP server host 'two.example' resolves to 169.254.169.254 which is link-local; rejecting to prevent \
                 SSRF. Set OTARI_MCP_ALLOW_PRIVATE_HOSTS=true to override.",
            ),
        ] {
            assert_eq!(said(got), want);
        }
        assert_eq!(rules.addresses("two.example", &bad[..1]), Ok(()));
    }

    #[test]
    fn pages_are_refused_in_the_words_of_the_reference() {
        let rules = Rules::pages(false);
        assert_eq!(
            said(rules.url("file", None, false)),
            "fetch URL must use http or https, got 'file'"
        );
        assert_eq!(said(rules.url("https", Some(""), false)), "fetch URL must include a hostname");
        assert_eq!(
            said(rules.addresses("x", &[])),
            "fetch host 'x' could not be resolved; rejecting to avoid DNS-rebinding. Set \
             OTARI_WEB_SEARCH_ALLOW_PRIVATE_HOSTS=true to override."
        );
        assert_eq!(
            said(rules.addresses("::1", &["::1".parse().unwrap()])),
            "fetch host '::1' resolves to ::1 which is loopback; rejecting to prevent SSRF. Set \
             OTARI_WEB_SEARCH_ALLOW_PRIVATE_HOSTS=true to override."
        );
    }

    #[test]
    fn switches_lift_what_they_say() {
        let (loopback, private) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        for (rules, goes_home, goes_inside) in [
            (Rules::servers(false, true), true, false),
            (Rules::servers(false, false), false, false),
            (Rules::servers(true, false), true, true),
            (Rules::pages(false), false, false),
            (Rules::pages(true), true, true),
        ] {
            assert_eq!(rules.addresses("a", &[loopback]).is_ok(), goes_home, "{rules:?}");
            assert_eq!(rules.addresses("a", &[private]).is_ok(), goes_inside, "{rules:?}");
            assert!(rules.url("gopher", Some("a"), false).is_err(), "whatever is allowed");
            assert_eq!(rules.addresses("a", &[]).is_ok(), rules.allow_private);
        }
    }
}
