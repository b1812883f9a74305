//! Completes a parsed configuration from the system: interface, address, MAC, MTU, gateway, and the settings of the
//! current network namespace. The system is a set of closures, so that tests can be one.

use super::{Cidr, Config, ConfigError, Origin, Source, Value};
use crate::sys::call::{self, Errno};
use log::Level;
use remora_stack::interface::MacAddress;
use remora_stack::ip::route::{RouteAction, RouteEntry};
use remora_stack::settings::Settings;
use std::net::{IpAddr, Ipv4Addr};

/// Congestion control algorithms that the stack has.
pub use remora_stack::tcp::CONGESTION_CONTROLS;

/// What a link carries whose MTU nobody says (Ethernet).
const MTU_DEFAULT: u16 = 1_500;

/// ARPHRD_ETHER: the hardware types whose link address is a MAC address. Loopback has one of zeros.
const HARDWARE_ETHER: u16 = 1;

/// RTF_UP, RTF_GATEWAY and RTF_REJECT of /proc/net/route.
const ROUTE_UP: u32 = 1;
const ROUTE_GATEWAY: u32 = 2;
const ROUTE_REJECT: u32 = 0x200;

/// What is asked of an interface.
pub type InterfaceFacts = call::Interface;

/// The system as configuration sees it.
pub struct System<'a> {
    /// Reads a file of /proc as text.
    pub read: &'a dyn Fn(&str) -> Option<String>,
    /// Asks about one interface; ENODEV when there is none of the name.
    pub interface: &'a dyn Fn(&str) -> Result<InterfaceFacts, Errno>,
    /// Names of the interfaces that are up, the loopback left out.
    pub candidates: &'a dyn Fn() -> Vec<String>,
}

impl System<'static> {
    /// The system that this process runs on, in its network namespace.
    #[must_use]
    pub fn host() -> Self {
        Self { read: &|path| std::fs::read_to_string(path).ok(), interface: &call::interface, candidates: &candidates }
    }
}

fn candidates() -> Vec<String> {
    let mut names: Vec<String> = pnet_datalink::interfaces()
        .into_iter()
        .filter(|interface| interface.is_up() && !interface.is_loopback())
        .map(|interface| interface.name)
        .collect();
    names.sort();
    names
}

impl Config {
    /// Completes the configuration. It may be called again when the interface has appeared or changed: what was given
    /// stays, what was found is found anew. An interface that does not exist yet, or has no address yet that it is to be
    /// used with, is no error here, since devices are waited for; see [`Config::require_interface`].
    ///
    /// # Errors
    /// No interface can be chosen, the MTU is more than the interface carries.
    pub fn resolve(&mut self, system: &System<'_>) -> Result<(), ConfigError> {
        self.notes.clear();
        self.resolve_settings(system);
        if !self.wants_stack() {
            return Ok(());
        }
        if self.device.value.needs_interface() && self.interface.is_none() {
            let mut names = (system.candidates)();
            match names.pop() {
                Some(only) if names.is_empty() => self.interface = Some(Value::new(only, Source::Default)),
                last => {
                    names.extend(last);
                    return Err(ConfigError::NoInterface { candidates: names });
                }
            }
        }
        let facts = self.interface.as_ref().and_then(|name| (system.interface)(&name.value).ok());
        self.resolve_address(system, facts.as_ref())?;
        self.resolve_mtu(facts.as_ref())?;
        self.resolve_mac(facts.as_ref());
        Ok(())
    }

    /// Says so when the interface that is needed does not exist, or has no address to take.
    ///
    /// # Errors
    /// [`ConfigError::InterfaceMissing`], [`ConfigError::NoInterfaceAddress`].
    pub fn require_interface(&self, system: &System<'_>) -> Result<Option<InterfaceFacts>, ConfigError> {
        let Some(name) = self.interface.as_ref().filter(|_| self.device.value.needs_interface()) else {
            return Ok(None);
        };
        let facts = (system.interface)(&name.value).map_err(|_| ConfigError::InterfaceMissing {
            origin: Origin::of(&name.source, "REMORA_IFACE", "iface"),
            interface: name.value.clone(),
            candidates: (system.candidates)(),
        })?;
        if self.takes_interface_address.is_some() && self.address.is_none() {
            return Err(ConfigError::NoInterfaceAddress { interface: name.value.clone() });
        }
        Ok(Some(facts))
    }

    //= RFC 1122 §3.3.1.6 (MUST-69)
    fn resolve_address(&mut self, system: &System<'_>, facts: Option<&InterfaceFacts>) -> Result<(), ConfigError> {
        if self.takes_interface_address.is_none() {
            return Ok(());
        }
        let name = self.interface.as_ref().map_or_else(String::new, |name| name.value.clone());
        let found = facts.and_then(|facts| facts.address).map(|(address, mask)| Cidr {
            address,
            // A mask with holes cannot be set on Linux (inet_abc_len, bad_mask); its leading ones count.
            prefix: u8::try_from(u32::from(mask).leading_ones()).unwrap_or(32).max(1),
        });
        let Some(cidr) = found.filter(|cidr| !cidr.address.is_loopback()) else {
            self.address = None;
            return Ok(());
        };
        self.address = Some(Value::new(cidr, Source::Interface));
        // The kernel's default route belongs to the kernel's address as much as its prefix does.
        if self.gateway.as_ref().is_none_or(|gateway| gateway.source == Source::Interface) {
            let mut routes = (system.read)("/proc/net/route").map_or_else(Vec::new, |table| routes_of(&table, &name));
            let default = routes
                .iter()
                .filter(|route| route.prefix == 0)
                .filter_map(|route| match route.gateway {
                    Some(IpAddr::V4(gateway)) if gateway != cidr.address => Some((route.metric, gateway)),
                    _ => None,
                })
                .min();
            self.gateway = default
                .filter(|(_, gateway)| cidr.prefix == 32 || cidr.contains(*gateway))
                .map(|(_, gateway)| Value::new(gateway, Source::Interface));
            let connected = Ipv4Addr::from_bits(cidr.address.to_bits() & cidr.mask());
            routes.retain(|route| {
                let has_default = self.gateway.is_some() && route.prefix == 0;
                !has_default && (route.destination, route.prefix) != (IpAddr::V4(connected), cidr.prefix)
            });
            for route in &mut routes {
                route.source = Some(cidr.address.into());
                // Over a point-to-point device one may name one's own end (`ip route add ... via`).
                route.gateway = route.gateway.filter(|gateway| *gateway != IpAddr::V4(cidr.address));
            }
            self.routes = routes;
        }
        self.check_gateway()
    }

    fn resolve_mtu(&mut self, facts: Option<&InterfaceFacts>) -> Result<(), ConfigError> {
        let carried = facts.map(|facts| u16::try_from(facts.mtu).unwrap_or(u16::MAX));
        match (&self.mtu, carried) {
            (Some(mtu), Some(carried)) if is_given(&mtu.source) && mtu.value > carried => {
                return Err(ConfigError::Value {
                    origin: Origin::of(&mtu.source, "REMORA_MTU", "mtu"),
                    value: mtu.value.to_string(),
                    allowed: format!("at most {carried}, the MTU of the interface"),
                });
            }
            (Some(mtu), _) if is_given(&mtu.source) => {}
            (_, Some(carried)) => self.mtu = Some(Value::new(carried, Source::Interface)),
            (_, None) => self.mtu = Some(Value::new(MTU_DEFAULT, Source::Default)),
        }
        Ok(())
    }

    fn resolve_mac(&mut self, facts: Option<&InterfaceFacts>) {
        if self.mac.as_ref().is_some_and(|mac| is_given(&mac.source)) {
            return;
        }
        let Some(address) = &self.address else { return };
        let own = facts.filter(|facts| facts.hardware == HARDWARE_ETHER).map(|facts| MacAddress(facts.mac));
        self.mac = Some(match own {
            // The kernel answers ARP for an address that it shares with us: two MACs for one address would be a conflict.
            Some(own) if self.takes_interface_address.is_some() => Value::new(own, Source::Interface),
            _ => Value::new(derive_mac(address.value.address, own), Source::Derived),
        });
    }

    pub(super) fn resolve_settings(&mut self, system: &System<'_>) {
        let found = settings_from_proc(system.read, self.interface.as_ref().map(|name| name.value.as_str()));
        self.settings = found.settings;
        self.setting_sources = found.read.into_iter().map(|name| (name, Source::Proc)).collect();
        for change in &self.overrides {
            // Checked when it was read; the table has not changed since.
            if self.settings.set(change.name, &change.value).is_ok() {
                self.setting_sources.retain(|(name, _)| *name != change.name);
                self.setting_sources.push((change.name, change.source.clone()));
            }
        }
        self.check_congestion_control();
    }

    /// An algorithm that the stack does not have falls to cubic, with a line in the log (T-05).
    fn check_congestion_control(&mut self) {
        const NAME: &str = "net.ipv4.tcp_congestion_control";
        let asked = self.settings.each().find(|(name, _)| *name == NAME).map(|(_, value)| value).unwrap_or_default();
        if CONGESTION_CONTROLS.contains(&asked.as_str()) {
            return;
        }
        let source = self.setting_sources.iter().find(|(name, _)| *name == NAME).map(|(_, source)| source.clone());
        // What the user asked for is worth a warning, what the kernel happens to be set to is not.
        let level = if source.as_ref().is_some_and(is_given) { Level::Warn } else { Level::Info };
        let origin = source.unwrap_or(Source::Default);
        self.notes.push((level, format!("{NAME}={asked} ({origin}) is not one of the stack's: cubic is used")));
        // "cubic" is a name that the setting takes.
        let _ = self.settings.set(NAME, "cubic");
        self.setting_sources.retain(|(name, _)| *name != NAME);
    }
}

/// Whether someone asked for the value, rather than it having been found.
fn is_given(source: &Source) -> bool {
    matches!(source, Source::Environment(_) | Source::File(_))
}

/// The settings of a network namespace.
#[derive(Clone, Debug)]
pub struct ProcSettings {
    /// The settings; those that could not be read have their defaults.
    pub settings: Settings,
    /// Names of those that were read.
    pub read: Vec<&'static str>,
}

/// Reads the settings from /proc/sys/net by `read`. Namespaces other than the first show no `neigh/default`; there the
/// interface's own parameters stand in for it, which are what Linux goes by anyway.
pub fn settings_from_proc(read: &dyn Fn(&str) -> Option<String>, interface: Option<&str>) -> ProcSettings {
    let mut found = ProcSettings { settings: Settings::default(), read: Vec::new() };
    for name in Settings::names().filter(|name| name.starts_with("net.")) {
        let own = name
            .strip_prefix("net.ipv4.neigh.default.")
            .zip(interface)
            .and_then(|(parameter, interface)| read(&format!("/proc/sys/net/ipv4/neigh/{interface}/{parameter}")));
        let text = own.or_else(|| read(&format!("/proc/sys/{}", name.replace('.', "/"))));
        // A newer kernel may know values that the table does not: the default stands then.
        if text.is_some_and(|text| found.settings.set(name, &text).is_ok()) {
            found.read.push(name);
        }
    }
    found
}

/// A locally administered MAC that is the same for everybody who uses this address on this interface, and most
/// likely nobody else's: FNV-1a (64 bits) over both.
pub(super) fn derive_mac(address: Ipv4Addr, own: Option<MacAddress>) -> MacAddress {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let own = own.map_or([0; 6], |mac| mac.0);
    let hash = address
        .octets()
        .iter()
        .chain(&own)
        .fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    // IEEE 802 §8.2: bit 1 of the first byte set is "locally administered", bit 0 clear is "one station".
    MacAddress([((a ^ g) & 0xfc) | 0x02, b ^ h, c, d, e, f])
}

/// The routes over `interface`, from the text of /proc/net/route (`fib_route_seq_show`).
fn routes_of(table: &str, interface: &str) -> Vec<RouteEntry> {
    table.lines().skip(1).filter_map(|line| route_of(line, interface)).collect()
}

fn route_of(line: &str, interface: &str) -> Option<RouteEntry> {
    let mut columns = line.split_ascii_whitespace();
    let name = columns.next()?;
    let hexadecimal = |text: Option<&str>| u32::from_str_radix(text?, 16).ok();
    // Addresses are printed as the word that lies in memory.
    let address = |text: Option<&str>| hexadecimal(text).map(|word| Ipv4Addr::from(word.to_ne_bytes()));
    let destination = address(columns.next())?;
    let gateway = address(columns.next())?;
    let flags = hexadecimal(columns.next())?;
    let metric = columns.nth(2)?.parse().ok()?;
    let mask = address(columns.next())?;
    let mtu: u32 = columns.next()?.parse().ok()?;
    let window = columns.next()?.parse().ok()?;
    let prefix = u8::try_from(mask.to_bits().leading_ones()).ok()?;
    let action = if flags & ROUTE_REJECT != 0 { RouteAction::Unreachable } else { RouteAction::Unicast };
    (name == interface && flags & ROUTE_UP != 0).then(|| RouteEntry {
        gateway: (flags & ROUTE_GATEWAY != 0).then_some(gateway.into()),
        metric,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        window,
        ..RouteEntry::new(destination.into(), prefix, action)
    })
}
