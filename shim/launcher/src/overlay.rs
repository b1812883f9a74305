//! The flags of a command as variables laid over the environment.

use crate::cli::Network;
use std::ffi::{OsStr, OsString};

/// Variables of the launcher that the library does not read.
const OWN: [&str; 1] = ["REMORA_LIB"];

/// Variables set by flags, each with the flag that set it.
#[derive(Debug, Default)]
pub struct Overlay {
    set: Vec<(&'static str, OsString)>,
}

impl Overlay {
    /// Takes the flags over.
    pub fn new(flags: &Network) -> Self {
        let Network {
            iface,
            addr,
            gateway,
            mac,
            mtu,
            device,
            pcap,
            log,
            log_file,
            loopback,
            dns,
            interfaces,
            sysctl,
            config,
            strict,
            rule,
            explain,
            summary,
            counters,
            deep,
        } = flags;
        let mut overlay = Self::default();
        for (name, value) in [
            ("REMORA_IFACE", iface),
            ("REMORA_ADDR", addr),
            ("REMORA_GATEWAY", gateway),
            ("REMORA_MAC", mac),
            ("REMORA_MTU", mtu),
            ("REMORA_DEVICE", device),
            ("REMORA_LOG", log),
            ("REMORA_LOOPBACK", loopback),
            ("REMORA_DNS", dns),
            ("REMORA_INTERFACES", interfaces),
        ] {
            overlay.set.extend(value.as_ref().map(|value| (name, OsString::from(value))));
        }
        for (name, value) in [("REMORA_PCAP", pcap), ("REMORA_LOG_FILE", log_file), ("REMORA_CONFIG", config)] {
            overlay.set.extend(value.as_ref().map(|value| (name, value.clone().into_os_string())));
        }
        for (name, flag) in [
            ("REMORA_STRICT", strict),
            ("REMORA_EXPLAIN", explain),
            ("REMORA_SUMMARY", summary),
            ("REMORA_COUNTERS", counters),
            ("REMORA_DEEP", deep),
        ] {
            if *flag {
                overlay.set.push((name, "1".into()));
            }
        }
        if !rule.is_empty() {
            // The first match wins, so flags come before what the environment says.
            let inherited = std::env::var("REMORA_RULES").into_iter();
            overlay
                .set
                .push(("REMORA_RULES", rule.iter().cloned().chain(inherited).collect::<Vec<_>>().join(";").into()));
        }
        if !sysctl.is_empty() {
            // Later ones win, so flags come after what the environment says.
            let inherited = std::env::var("REMORA_SYSCTL").into_iter();
            overlay
                .set
                .push(("REMORA_SYSCTL", inherited.chain(sysctl.iter().cloned()).collect::<Vec<_>>().join(";").into()));
        }
        overlay
    }

    /// A variable's value: a flag's, else the environment's.
    pub fn value(&self, name: &str) -> Option<String> {
        self.is_flag(name)
            .map(OsStr::to_owned)
            .or_else(|| std::env::var_os(name))
            .map(|value| value.to_string_lossy().into_owned())
    }

    /// What a flag set the variable to, if one did.
    pub fn is_flag(&self, name: &str) -> Option<&OsStr> {
        self.set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str())
    }

    /// The variables to set.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.set.iter().map(|(name, value)| (*name, value.as_os_str()))
    }
}

/// Variables of the environment that look like ours but are none: most likely misspelt.
pub fn unknown_variables() -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("REMORA_") && !OWN.contains(&name.as_str()))
        .filter(|name| remora_host::config::variable_names().all(|known| known != name))
        .collect()
}
