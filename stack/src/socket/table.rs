//! A table whose entries are named by place and generation, so that the name of an entry that has gone never means
//! another one.

use slab::Slab;

use super::protocol::{SockId, SocketId};

/// A name made of a place and a generation.
pub trait Handle: Copy {
    /// From its parts.
    fn from_parts(index: u32, generation: u32) -> Self;
    /// Place in the table.
    fn index(self) -> u32;
    /// Which of the place's successive users is meant.
    fn generation(self) -> u32;
}

macro_rules! handle {
    ($name:ident) => {
        impl Handle for $name {
            fn from_parts(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }
            fn index(self) -> u32 {
                self.index
            }
            fn generation(self) -> u32 {
                self.generation
            }
        }
    };
}
handle!(SockId);
handle!(SocketId);

/// Entries by handle.
#[derive(Debug)]
pub struct Table<T> {
    entries: Slab<(u32, T)>,
    /// Generation of the next entry; it wraps after 2^32 sockets, by when the old name is long forgotten.
    next: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Slab::new(), next: 0 }
    }
}

impl<T> Table<T> {
    /// Adds what `make` makes of its own name. `None` when the table is full.
    pub fn insert_with<H: Handle>(&mut self, make: impl FnOnce(H) -> T) -> Option<H> {
        let index = u32::try_from(self.entries.vacant_key()).ok()?;
        self.next = self.next.wrapping_add(1);
        let handle = H::from_parts(index, self.next);
        self.entries.insert((self.next, make(handle)));
        Some(handle)
    }

    /// The entry of a name, unless it has gone.
    pub fn find<H: Handle>(&self, handle: H) -> Option<&T> {
        let (generation, entry) = self.entries.get(usize::try_from(handle.index()).ok()?)?;
        (*generation == handle.generation()).then_some(entry)
    }

    /// The entry of a name, unless it has gone.
    pub fn find_mut<H: Handle>(&mut self, handle: H) -> Option<&mut T> {
        let (generation, entry) = self.entries.get_mut(usize::try_from(handle.index()).ok()?)?;
        (*generation == handle.generation()).then_some(entry)
    }

    /// Takes an entry out.
    pub fn remove<H: Handle>(&mut self, handle: H) -> Option<T> {
        self.find(handle)?;
        self.entries.try_remove(usize::try_from(handle.index()).ok()?).map(|(_, entry)| entry)
    }

    /// All entries with their names, in no particular order.
    pub fn iter<H: Handle>(&self) -> impl Iterator<Item = (H, &T)> {
        self.entries.iter().filter_map(|(index, (generation, entry))| {
            Some((H::from_parts(u32::try_from(index).ok()?, *generation), entry))
        })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_name_never_means_a_new_entry() {
        let mut table = Table::default();
        let first: SockId = table.insert_with(|_| 'a').unwrap();
        assert_eq!(table.remove(first), Some('a'));
        let second: SockId = table.insert_with(|_| 'b').unwrap();
        assert_eq!(first.index, second.index);
        assert_eq!((table.find(first), table.find(second)), (None, Some(&'b')));
        assert_eq!(table.remove(first), None);
    }
}
