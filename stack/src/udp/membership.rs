//! Groups that a datagram socket has joined, and from which sources it wants to hear (`ip_mc_join_group`,
//! `ip_mc_leave_group`, `ip_mc_source`, `ip_mc_msfilter`, `ip_mc_sf_allow`). What routers are told is `ip/igmp.rs`.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smallvec::SmallVec;

use crate::ip::igmp::{self, SourceFilter};
use crate::socket::error::OptionError;
use crate::socket::options::{OptionValue, SetOption, SourceChange};
use crate::socket::protocol::Net;

/// Linux's igmp_max_memberships and igmp_max_msf.
const MOST_GROUPS: usize = 20;
const MOST_SOURCES: usize = 10;

/// The groups of one socket.
#[derive(Debug, Default)]
pub(crate) struct Memberships(SmallVec<[(IpAddr, SourceFilter); 1]>);

/// The device that a request is for: its address or none, and ours.
fn check_device(net: &Net<'_>, interface: Option<IpAddr>) -> Result<(), OptionError> {
    let ours = net.ip.interface().map(|interface| interface.address).ok_or(OptionError::NoDevice)?;
    match interface {
        Some(address) if !address.is_unspecified() && address != ours => Err(OptionError::NoDevice),
        _ => Ok(()),
    }
}

impl Memberships {
    /// The options that are about groups.
    ///
    /// # Errors
    /// `Unknown` for any other.
    pub(crate) fn set_option(&mut self, net: &mut Net<'_>, option: &SetOption) -> Result<(), OptionError> {
        match option {
            SetOption::Membership(group, interface, true) => self.join(net, *group, *interface, SourceFilter::ALL),
            SetOption::Membership(group, interface, false) => self.leave(net, *group, *interface),
            SetOption::Source(group, interface, source, change) => {
                self.change_source(net, (*group, *interface), *source, *change)
            }
            SetOption::Sources(group, interface, include, sources) => {
                self.set_filter(net, (*group, *interface), *include, sources.clone())
            }
            _ => Err(OptionError::Unknown),
        }
    }

    fn place(&self, group: IpAddr) -> Option<usize> {
        self.0.iter().position(|(joined, _)| *joined == group)
    }

    /// Whether a datagram of this source to this group is for the socket; `all`: IP_MULTICAST_ALL, which brings those of
    /// groups that others have joined.
    pub(crate) fn allow(&self, group: IpAddr, source: IpAddr, all: bool) -> bool {
        match (self.place(group).and_then(|place| self.0.get(place)), source) {
            (Some((_, filter)), IpAddr::V4(source)) => filter.passes(source),
            (Some(_), IpAddr::V6(_)) => true,
            (None, _) => all,
        }
    }

    /// OptionName::SourceFilter (`ip_mc_msfget`).
    ///
    /// # Errors
    /// `NoDevice` without an interface, `AddressNotAvailable` for a group that was not joined.
    pub(crate) fn filter_of(&self, net: &Net<'_>, group: Ipv4Addr) -> Result<OptionValue, OptionError> {
        check_device(net, None)?;
        let place = self.place(group.into()).ok_or(OptionError::AddressNotAvailable)?;
        let (_, filter) = self.0.get(place).ok_or(OptionError::AddressNotAvailable)?;
        let mode = u32::from(filter.include).to_ne_bytes();
        let sources = filter.sources.iter().flat_map(|source| source.octets());
        Ok(OptionValue::Bytes(mode.into_iter().chain(sources).collect()))
    }

    pub(crate) fn join(
        &mut self,
        net: &mut Net<'_>,
        group: IpAddr,
        interface: Option<IpAddr>,
        filter: SourceFilter,
    ) -> Result<(), OptionError> {
        if !group.is_multicast() {
            return Err(OptionError::Invalid);
        }
        check_device(net, interface)?;
        if self.place(group).is_some() {
            return Err(OptionError::AddressInUse);
        }
        if self.0.len() >= MOST_GROUPS {
            return Err(OptionError::NoMemory);
        }
        igmp::change(net, group, None, Some(&filter));
        self.0.push((group, filter));
        Ok(())
    }

    pub(crate) fn leave(
        &mut self,
        net: &mut Net<'_>,
        group: IpAddr,
        interface: Option<IpAddr>,
    ) -> Result<(), OptionError> {
        if interface.is_none() && (!group.is_multicast() || net.ip.interface().is_none()) && self.place(group).is_none()
        {
            return Err(OptionError::NoDevice);
        }
        let place = self.place(group).ok_or(OptionError::AddressNotAvailable)?;
        let (_, filter) = self.0.swap_remove(place);
        igmp::change(net, group, Some(&filter), None);
        Ok(())
    }

    /// All of them, when the socket is closed.
    pub(crate) fn leave_all(&mut self, net: &mut Net<'_>) {
        for (group, filter) in self.0.drain(..) {
            igmp::change(net, group, Some(&filter), None);
        }
    }

    /// One source more or less (`ip_mc_source`).
    pub(crate) fn change_source(
        &mut self,
        net: &mut Net<'_>,
        (group, interface): (IpAddr, Option<IpAddr>),
        source: Ipv4Addr,
        change: SourceChange,
    ) -> Result<(), OptionError> {
        let (include, add) = match change {
            SourceChange::Add => (true, true),
            SourceChange::Drop => (true, false),
            SourceChange::Block => (false, true),
            SourceChange::Unblock => (false, false),
        };
        if !group.is_multicast() {
            return Err(OptionError::Invalid);
        }
        check_device(net, interface)?;
        if change == SourceChange::Add && self.place(group).is_none() {
            return self.join(net, group, interface, SourceFilter { include, sources: alloc::vec![source] });
        }
        let place = self.place(group).ok_or(OptionError::Invalid)?;
        let (_, filter) = self.0.get_mut(place).ok_or(OptionError::Invalid)?;
        // An empty filter may change its mode, any other may not.
        if !filter.sources.is_empty() && filter.include != include {
            return Err(OptionError::Invalid);
        }
        let before = filter.clone();
        let found = filter.sources.iter().position(|known| *known == source);
        match (add, found) {
            (true, Some(_)) | (false, None) => return Err(OptionError::AddressNotAvailable),
            (true, None) if filter.sources.len() >= MOST_SOURCES => return Err(OptionError::NoMemory),
            (true, None) => filter.sources.push(source),
            (false, Some(_)) if include && filter.sources.len() == 1 => return self.leave(net, group, interface),
            (false, Some(at)) => {
                filter.sources.remove(at);
            }
        }
        filter.include = include;
        filter.sources.sort_unstable();
        let after = filter.clone();
        igmp::change(net, group, Some(&before), Some(&after));
        Ok(())
    }

    /// The whole filter anew (`ip_mc_msfilter`).
    pub(crate) fn set_filter(
        &mut self,
        net: &mut Net<'_>,
        (group, interface): (IpAddr, Option<IpAddr>),
        include: bool,
        mut sources: Vec<Ipv4Addr>,
    ) -> Result<(), OptionError> {
        if !group.is_multicast() {
            return Err(OptionError::Invalid);
        }
        check_device(net, interface)?;
        if include && sources.is_empty() {
            return self.leave(net, group, interface);
        }
        let place = self.place(group).ok_or(OptionError::Invalid)?;
        let (_, filter) = self.0.get_mut(place).ok_or(OptionError::Invalid)?;
        sources.sort_unstable();
        let before = core::mem::replace(filter, SourceFilter { include, sources });
        let after = filter.clone();
        igmp::change(net, group, Some(&before), Some(&after));
        Ok(())
    }
}
