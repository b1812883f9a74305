//! Configuration of the stack's one external interface, as the host hands it in.

use core::net::IpAddr;

use crate::frame::DeviceCapabilities;

/// Link-layer address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (multicast or broadcast).
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl core::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The external interface: one device, one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Our address.
    pub address: IpAddr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
    /// Our link-layer address.
    pub mac: MacAddress,
    /// What the device can do.
    pub capabilities: DeviceCapabilities,
    /// Probe the address for a conflict before first use (RFC 5227 §2.1.1) and defend it afterwards.
    pub probe: bool,
    /// 127.0.0.0/8 is served inside the stack (REMORA_LOOPBACK=stack).
    pub loopback: bool,
}
