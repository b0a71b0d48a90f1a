//! Clients, by which connections are counted.

use std::net::IpAddr;

use crate::net::Peer;

/// An IPv4 address; or the 64 bits of an IPv6 address that name the network, in which a host may have any address; or a user
/// of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork([u8; 8]);

impl ClientNetwork {
    pub fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Ip(address) => ClientNetwork::of_address(address.ip()),
            // No IPv6 network begins with these bytes, nor with those of an IPv4 address.
            Peer::Unix { uid, .. } => {
                let [a, b, c, d] = uid.to_le_bytes();
                ClientNetwork([0, 0, 0, 1, a, b, c, d])
            }
        }
    }

    fn of_address(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(four) => {
                let [a, b, c, d] = four.octets();
                ClientNetwork([0, 0, 0, 4, a, b, c, d])
            }
            IpAddr::V6(six) => {
                let [a, b, c, d, e, f, g, h, ..] = six.octets();
                ClientNetwork([a, b, c, d, e, f, g, h])
            }
        }
    }
}
