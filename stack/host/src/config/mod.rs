//! Configuration: the `REMORA_*` variables, a TOML file and what the system says, each value with its source.
//!
//! [`Config::from_environment`] only parses; [`Config::resolve`] completes the result from the interface and
//! /proc/sys; [`Config::load`] does both against the running system. It is called inside a preloaded program at the
//! first use of an address: it never panics and writes nothing.

pub mod environment;
mod error;
mod file;
mod report;
mod resolve;
pub mod rules;
mod value;

use crate::device::{self, DeviceSpec, LocalAddress};
use log::{Level, LevelFilter};
use remora_stack::frame::{DeviceCapabilities, Medium};
use remora_stack::interface::{InterfaceConfig, MacAddress};
use remora_stack::ip::route::RouteEntry;
use remora_stack::settings::Settings;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

pub use error::{ConfigError, Origin};
pub use report::Row;
pub use resolve::{CONGESTION_CONTROLS, InterfaceFacts, ProcSettings, System, settings_from_proc};
pub use value::{Cidr, DeviceKind, Interfaces, Loopback, Names, UnixLink};

/// What a program sees that has no address configured.
pub const NO_ADDRESS: &str = "no address configured, the program runs on the kernel's network: set \
     REMORA_ADDR=a.b.c.d/len and REMORA_IFACE=name (or use remora run)";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An environment variable.
    Environment(&'static str),
    /// The file that `REMORA_CONFIG` names.
    File(PathBuf),
    /// A file below /proc.
    Proc,
    /// The network interface.
    Interface,
    /// Computed from the address and the interface's own link address.
    Derived,
    /// remora's own default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Proc => f.write_str("/proc/sys"),
            Self::Interface => f.write_str("interface"),
            Self::Derived => f.write_str("derived from address and interface"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub source: Source,
}

impl<T> Value<T> {
    /// Puts a value and its source together.
    pub const fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }
}

/// One override of a setting, checked when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The setting's dotted sysctl name.
    pub name: &'static str,
    /// The value as text.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

/// The whole configuration of one process.
#[derive(Clone, Debug)]
pub struct Config {
    /// The network interface; not needed by the `unix` back end.
    pub interface: Option<Value<String>>,
    /// Our address. `None`: the program runs on the kernel's sockets.
    pub address: Option<Value<Cidr>>,
    /// `REMORA_ADDR=iface`: [`Config::resolve`] takes the interface's own address.
    pub takes_interface_address: Option<Source>,
    /// Default gateway.
    pub gateway: Option<Value<Ipv4Addr>>,
    /// The kernel's other routes over the interface, taken with its address.
    pub routes: Vec<RouteEntry>,
    /// Our link-layer address; `None` until resolved.
    pub mac: Option<Value<MacAddress>>,
    /// Largest IP packet in bytes; `None` until resolved.
    pub mtu: Option<Value<u16>>,
    /// Device back end.
    pub device: Value<DeviceKind>,
    /// Who serves 127.0.0.0/8.
    pub loopback: Value<Loopback>,
    /// Who asks name servers for libc's resolver.
    pub names: Value<Names>,
    /// Whose interfaces the program is shown.
    pub interfaces: Value<Interfaces>,
    /// What is logged.
    pub log: Value<LevelFilter>,
    /// Where the log goes instead of stderr.
    pub log_file: Option<Value<PathBuf>>,
    /// Where every frame is written in pcapng.
    pub pcap: Option<Value<PathBuf>>,
    /// A missing stack is an error instead of a fall-back to the kernel's.
    pub strict: Value<bool>,
    /// What is allowed, and who serves what.
    pub rules: Value<rules::Rules>,
    /// Each decision is said in a line, and which rule made it.
    pub explain: Value<bool>,
    /// At exit a line says how many sockets went to the kernel, and why.
    pub summary: Value<bool>,
    /// At exit every counter that is not zero is said in a line.
    pub counters: Value<bool>,
    /// System calls that the program makes itself, past libc, are caught too.
    pub deep: Value<bool>,
    /// Overrides of single settings, in the order in which they apply.
    pub overrides: Vec<Override>,
    /// The stack's settings; the defaults until resolved.
    pub settings: Settings,
    /// Source of each setting that is not a default.
    pub setting_sources: Vec<(&'static str, Source)>,
    /// Remarks for the log, made while resolving.
    pub notes: Vec<(Level, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interface: None,
            address: None,
            takes_interface_address: None,
            gateway: None,
            routes: Vec::new(),
            mac: None,
            mtu: None,
            device: Value::new(DeviceKind::Packet, Source::Default),
            loopback: Value::new(Loopback::Kernel, Source::Default),
            names: Value::new(Names::Stack, Source::Default),
            interfaces: Value::new(Interfaces::Both, Source::Default),
            log: Value::new(LevelFilter::Warn, Source::Default),
            log_file: None,
            pcap: None,
            strict: Value::new(false, Source::Default),
            rules: Value::new(rules::Rules::default(), Source::Default),
            explain: Value::new(false, Source::Default),
            summary: Value::new(false, Source::Default),
            counters: Value::new(false, Source::Default),
            deep: Value::new(false, Source::Default),
            overrides: Vec::new(),
            settings: Settings::default(),
            setting_sources: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// How one key is taken over from its text.
type Take = fn(&mut Config, &str, Source) -> Result<(), String>;

/// A variable, its key in the file, and how it is taken over. An error is what is allowed, in words.
struct Variable {
    name: &'static str,
    key: &'static str,
    take: Take,
}

/// All variables but `REMORA_CONFIG` and `REMORA_SYSCTL`, which hold several values.
const VARIABLES: &[Variable] = &[
    Variable { name: "REMORA_IFACE", key: "iface", take: take_interface },
    Variable { name: "REMORA_ADDR", key: "addr", take: take_address },
    Variable { name: "REMORA_GATEWAY", key: "gateway", take: take_gateway },
    Variable { name: "REMORA_MAC", key: "mac", take: take_mac },
    Variable { name: "REMORA_MTU", key: "mtu", take: take_mtu },
    Variable { name: "REMORA_DEVICE", key: "device", take: take_device },
    Variable { name: "REMORA_LOOPBACK", key: "loopback", take: take_loopback },
    Variable { name: "REMORA_DNS", key: "dns", take: take_names },
    Variable { name: "REMORA_INTERFACES", key: "interfaces", take: take_interfaces },
    Variable { name: "REMORA_LOG", key: "log", take: take_log },
    Variable { name: "REMORA_LOG_FILE", key: "log_file", take: take_log_file },
    Variable { name: "REMORA_PCAP", key: "pcap", take: take_pcap },
    Variable { name: "REMORA_STRICT", key: "strict", take: take_strict },
    Variable { name: "REMORA_RULES", key: "rules", take: take_rules },
    Variable { name: "REMORA_EXPLAIN", key: "explain", take: take_explain },
    Variable { name: "REMORA_SUMMARY", key: "summary", take: take_summary },
    Variable { name: "REMORA_COUNTERS", key: "counters", take: take_counters },
    Variable { name: "REMORA_DEEP", key: "deep", take: take_deep },
];

/// Names of all variables that remora reads.
pub fn variable_names() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().map(|variable| variable.name).chain(["REMORA_SYSCTL", "REMORA_CONFIG"])
}

impl Config {
    /// Parses the variables and the file that `REMORA_CONFIG` names; a variable wins over the file. An empty variable
    /// counts as not set. Without `REMORA_ADDR` the result has no address, and the program is the kernel's.
    ///
    /// # Errors
    /// The first value that is not allowed; its text is one line.
    pub fn from_environment(environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let read = |name: &'static str| {
            environment(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let mut config = Self::default();
        if let Some(path) = read("REMORA_CONFIG") {
            file::read(&mut config, &PathBuf::from(path))?;
        }
        for variable in VARIABLES {
            if let Some(text) = read(variable.name) {
                (variable.take)(&mut config, &text, Source::Environment(variable.name)).map_err(|allowed| {
                    ConfigError::Value { origin: Origin::Variable(variable.name), value: text, allowed }
                })?;
            }
        }
        if let Some(text) = read("REMORA_SYSCTL") {
            config.take_overrides(&text)?;
        }
        config.check_gateway()?;
        Ok(config)
    }

    /// The configuration of this process, completed from the running system.
    ///
    /// # Errors
    /// As [`Config::from_environment`] and [`Config::resolve`].
    pub fn load() -> Result<Self, ConfigError> {
        let mut config = Self::from_environment(&environment::reader())?;
        config.resolve(&System::host())?;
        Ok(config)
    }

    /// Whether the stack is to be used, be its address known yet or only with the interface.
    #[must_use]
    pub const fn wants_stack(&self) -> bool {
        self.address.is_some() || self.takes_interface_address.is_some()
    }

    /// The same configuration with what the system says now: an interface may have come, or an address.
    ///
    /// # Errors
    /// As [`Config::resolve`] and [`Config::require_interface`].
    pub fn looked_up_again(&self) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        let system = System::host();
        config.resolve(&system)?;
        if config.address.is_none() {
            config.require_interface(&system)?;
        }
        Ok(config)
    }

    /// The settings of this moment: /proc/sys as it is now, and the overrides.
    #[must_use]
    pub fn settings_now(&self) -> Settings {
        let mut config = self.clone();
        config.resolve_settings(&System::host());
        config.settings
    }

    /// What is to be opened, once an address is there.
    #[must_use]
    pub fn device_spec(&self) -> Option<DeviceSpec> {
        let Cidr { address, prefix } = self.address.as_ref()?.value;
        let kind = match self.device.value {
            DeviceKind::Packet => device::DeviceKind::Packet,
            DeviceKind::Portable => device::DeviceKind::Portable,
            DeviceKind::Unix(_) => device::DeviceKind::Unix,
        };
        let interface = match &self.device.value {
            DeviceKind::Packet | DeviceKind::Portable => self.interface.as_ref()?.value.clone(),
            DeviceKind::Unix(UnixLink::Descriptor(fd)) => format!("fd:{fd}"),
            link @ DeviceKind::Unix(UnixLink::Path(_) | UnixLink::Abstract(_)) => link.to_string(),
        };
        let mac = self.mac.as_ref().filter(|mac| mac.source != Source::Interface).map(|mac| mac.value.0);
        // What was found is what the device finds too.
        let given = |source: &Source| matches!(source, Source::Environment(_) | Source::File(_));
        let mtu = self.mtu.as_ref().filter(|mtu| given(&mtu.source)).map(|mtu| mtu.value);
        Some(DeviceSpec { kind, interface, mac, addresses: vec![LocalAddress { address, prefix }], mtu })
    }

    /// The interface as the stack wants it, once an address and a device are there.
    #[must_use]
    pub fn interface_config(&self, device: DeviceCapabilities) -> Option<InterfaceConfig> {
        let address = self.address.as_ref()?.value;
        let mtu = self.mtu.as_ref().map_or(device.mtu, |mtu| mtu.value.min(device.mtu));
        Some(InterfaceConfig {
            address: IpAddr::V4(address.address),
            prefix: address.prefix,
            gateway: self.gateway.as_ref().map(|gateway| IpAddr::V4(gateway.value)),
            mac: self.mac.as_ref().map_or_else(|| resolve::derive_mac(address.address, None), |mac| mac.value),
            capabilities: DeviceCapabilities { mtu, ..device },
            // The kernel answers for an address that is its own too: a probe would always find a conflict.
            probe: device.medium == Medium::Ethernet && self.takes_interface_address.is_none(),
            loopback: self.loopback.value == Loopback::Stack || self.rules.value.want_loopback_in_stack(),
        })
    }

    fn take_overrides(&mut self, text: &str) -> Result<(), ConfigError> {
        for part in text.split([';', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(ConfigError::Value {
                    origin: Origin::Variable("REMORA_SYSCTL"),
                    value: part.to_owned(),
                    allowed: "NAME=VALUE;NAME=VALUE;..., as in net.ipv4.tcp_sack=0".to_owned(),
                });
            };
            self.take_override(name, value, Source::Environment("REMORA_SYSCTL"))
                .map_err(|error| ConfigError::Setting { origin: Origin::Variable("REMORA_SYSCTL"), error })?;
        }
        Ok(())
    }

    fn take_override(
        &mut self,
        name: &str,
        value: &str,
        source: Source,
    ) -> Result<(), remora_stack::settings_text::SettingError> {
        self.settings.set(name, value)?;
        if let Some(name) = Settings::canonical_name(name) {
            self.overrides.push(Override { name, value: value.trim().to_owned(), source });
        }
        Ok(())
    }

    /// A gateway off the link could never be reached (`fib_check_nh`).
    fn check_gateway(&self) -> Result<(), ConfigError> {
        let (Some(address), Some(gateway)) = (&self.address, &self.gateway) else { return Ok(()) };
        let cidr = address.value;
        let fault = if gateway.value == cidr.address {
            "an address other than our own"
        } else if cidr.prefix < 32 && !cidr.contains(gateway.value) {
            "an address on the link"
        } else {
            return Ok(());
        };
        Err(ConfigError::Value {
            origin: Origin::of(&gateway.source, "REMORA_GATEWAY", "gateway"),
            value: gateway.value.to_string(),
            allowed: format!("{fault} ({cidr})"),
        })
    }
}

fn take_interface(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.interface = Some(Value::new(value::interface(text)?, source));
    Ok(())
}

fn take_address(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    // The one replaces the other: a variable may undo what the file says.
    (config.address, config.takes_interface_address) =
        if text == "iface" { (None, Some(source)) } else { (Some(Value::new(value::address(text)?, source)), None) };
    Ok(())
}

fn take_gateway(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.gateway = Some(Value::new(value::gateway(text)?, source));
    Ok(())
}

fn take_mac(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.mac = Some(Value::new(value::mac(text)?, source));
    Ok(())
}

fn take_mtu(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.mtu = Some(Value::new(value::mtu(text)?, source));
    Ok(())
}

fn take_device(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.device = Value::new(value::device(text)?, source);
    Ok(())
}

fn take_loopback(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.loopback = Value::new(value::loopback(text)?, source);
    Ok(())
}

fn take_names(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.names = Value::new(value::names(text)?, source);
    Ok(())
}

fn take_interfaces(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.interfaces = Value::new(value::interfaces(text)?, source);
    Ok(())
}

fn take_log(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.log = Value::new(value::level(text)?, source);
    Ok(())
}

fn take_log_file(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.log_file = Some(Value::new(value::path(text)?, source));
    Ok(())
}

fn take_pcap(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.pcap = Some(Value::new(value::path(text)?, source));
    Ok(())
}

fn take_strict(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.strict = Value::new(value::flag(text)?, source);
    Ok(())
}

fn take_rules(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.rules = Value::new(rules::Rules::parse(text)?, source);
    Ok(())
}

fn take_explain(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.explain = Value::new(value::flag(text)?, source);
    Ok(())
}

fn take_counters(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.counters = Value::new(value::flag(text)?, source);
    Ok(())
}

fn take_deep(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.deep = Value::new(value::flag(text)?, source);
    Ok(())
}

fn take_summary(config: &mut Config, text: &str, source: Source) -> Result<(), String> {
    config.summary = Value::new(value::flag(text)?, source);
    Ok(())
}

#[cfg(test)]
mod tests;
