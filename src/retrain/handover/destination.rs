//! Which addresses may be connected to. A URL of the settings is trusted in what it says, but not in
//! what its name leads to on the day: without leave, nothing inside the network is reached.
//!
//! Names are resolved here, for each new connection, and the connection goes to one of the
//! addresses that passed: an answer that changes between two questions (DNS rebinding) changes
//! nothing. Addresses that stand in the URL itself are looked at before the request, since the
//! client does not ask a resolver for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Nobody may connect there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it leads to no address that may be connected to; allow_private has to hold it, or for a public one by http: allow_http"
)]
pub struct Forbidden;

/// What may be connected to.
#[derive(Debug, Clone)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
    /// Whether every public address may be, beside those.
    public: bool,
}

impl Guard {
    /// Public addresses or none, and these networks.
    pub fn new(public: bool, allowed: &[IpNet]) -> Self {
        Self {
            allowed: allowed.into(),
            public,
        }
    }

    /// Whether this address may be connected to.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical(); // ::ffff:10.0.0.1 leads to 10.0.0.1
        let allowed = self.allowed.iter().any(|net| net.contains(&address));
        allowed || (self.public && is_public(address))
    }

    /// Looks at a URL whose host is an address; names are the resolver's matter.
    ///
    /// # Errors
    /// When nobody may connect there.
    pub fn check(&self, url: &Url) -> Result<(), Forbidden> {
        let host = url.host_str().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
        match literal {
            Ok(address) if !self.permits(address) => Err(Forbidden),
            _ => Ok(()),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let permitted: Vec<SocketAddr> = found.filter(|a| guard.permits(a.ip())).collect();
            if permitted.is_empty() {
                return Err(Forbidden.into());
            }
            let addresses: Addrs = Box::new(permitted.into_iter());
            Ok(addresses)
        })
    }
}

/// Whether an address is anybody's on the internet (the special-purpose registries of IANA).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 10 | 127 | 224..=255, ..] => true,
        [100, second, ..] => (64..128).contains(&second), // shared by customers of a provider
        [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => (16..32).contains(&second),
        [192, 0, 0 | 2, _] | [192, 88, 99, _] => true,
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => false,
    };
    !special
}

/// Of the global unicast addresses, those that lead elsewhere: tunnels that hold an IPv4 address
/// (Teredo, 6to4), documentation, benchmarks.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let special = match (first, second) {
        (0x2001, 0..0x200) | (0x2001, 0xdb8) | (0x2002, _) => true,
        (0x3fff, second) => second < 0x1000,
        _ => false,
    };
    (0x2000..0x4000).contains(&first) && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_inside_is_public() {
        let inside = "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.8.8.8 169.254.169.254 172.16.0.1 172.31.255.255 \
             192.0.0.1 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.9 224.0.0.1 240.0.0.1 \
             255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::10.0.0.1 64:ff9b::a00:1 fc00::1 fd12::1 \
             fe80::1 fec0::1 ff02::1 2001::1 2001:db8::1 2002:a00:1:: 3fff::1 100::1";
        let guard = Guard::new(true, &[]);
        for address in inside.split_whitespace() {
            assert!(!guard.permits(address.parse().unwrap()), "{address}");
        }
        let outside = "1.1.1.1 100.128.0.1 172.32.0.1 192.0.1.1 198.20.0.1 ::ffff:1.1.1.1 2606:4700::1111 2a00::1";
        for address in outside.split_whitespace() {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_allowed_in_every_spelling() {
        let nets: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"]
            .map(|n| n.parse().unwrap())
            .into();
        let guard = Guard::new(false, &nets);
        for address in ["10.9.9.9", "::ffff:10.9.9.9", "fd00::7"] {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
        for address in ["11.0.0.1", "1.1.1.1", "127.0.0.1"] {
            assert!(!guard.permits(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_in_urls_are_seen_however_they_are_written() {
        let guard = Guard::new(true, &[]);
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "[::1]",
            "[::ffff:7f00:1]",
        ] {
            let url = Url::parse(&format!("https://{host}/")).unwrap();
            assert_eq!(guard.check(&url), Err(Forbidden), "{host}");
        }
        let url = Url::parse("https://example.com/").unwrap();
        assert_eq!(guard.check(&url), Ok(()), "names are the resolver's");
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_resolved() {
        let name = || "localhost".parse::<Name>().unwrap();
        let refused = Guard::new(true, &[]).resolve(name()).await;
        let refused = refused.err().unwrap();
        assert!(refused.downcast_ref::<Forbidden>().is_some(), "{refused}");
        let loopback: Vec<IpNet> = ["127.0.0.0/8", "::1/128"]
            .map(|n| n.parse().unwrap())
            .into();
        assert!(Guard::new(true, &loopback).resolve(name()).await.is_ok());
    }
}
