//! A table whose places are named by index and generation, so that a name is never taken for a later owner of its place.

/// A name in a table.
pub(super) trait Name: Copy {
    fn new(index: u32, generation: u32) -> Self;
    fn index(self) -> u32;
    fn generation(self) -> u32;
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// The table. Free places are used again, the last freed one first.
#[derive(Debug)]
pub(super) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    count: usize,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), count: 0 }
    }

    pub(super) fn insert<N: Name>(&mut self, value: T) -> N {
        self.count += 1;
        if let Some(index) = self.free.pop()
            && let Some(place) = self.places.get_mut(index as usize)
        {
            place.value = Some(value);
            return N::new(index, place.generation);
        }
        let index = u32::try_from(self.places.len()).expect("as many descriptors as there are do not exist");
        self.places.push(Place { generation: 1, value: Some(value) });
        N::new(index, 1)
    }

    pub(super) fn find<N: Name>(&self, name: N) -> Option<&T> {
        let place = self.places.get(name.index() as usize)?;
        place.value.as_ref().filter(|_| place.generation == name.generation())
    }

    pub(super) fn find_mut<N: Name>(&mut self, name: N) -> Option<&mut T> {
        let place = self.places.get_mut(name.index() as usize)?;
        place.value.as_mut().filter(|_| place.generation == name.generation())
    }

    pub(super) fn remove<N: Name>(&mut self, name: N) -> Option<T> {
        let place = self.places.get_mut(name.index() as usize)?;
        if place.generation != name.generation() {
            return None;
        }
        let value = place.value.take()?;
        // Zero is no generation, so that a zeroed name names nothing.
        place.generation = place.generation.checked_add(1).unwrap_or(1);
        self.free.push(name.index());
        self.count -= 1;
        Some(value)
    }

    /// The name of what stands at a place.
    pub(super) fn name_at<N: Name>(&self, index: u32) -> Option<N> {
        let place = self.places.get(index as usize)?;
        place.value.as_ref().map(|_| N::new(index, place.generation))
    }

    /// How many places there are, used or not: for walks that change the table.
    pub(super) fn places(&self) -> u32 {
        self.places.len() as u32
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.value.as_ref())
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|place| place.value.as_mut())
    }
}

macro_rules! name {
    ($type:ty) => {
        impl Name for $type {
            fn new(index: u32, generation: u32) -> Self {
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

name!(super::DescriptionId);
name!(super::SetId);

#[cfg(test)]
mod tests {
    use super::super::SetId;
    use super::*;

    #[test]
    fn name_of_a_removed_value_names_nothing_even_when_its_place_is_used_again() {
        let mut table = Table::new();
        let first: SetId = table.insert("first");
        assert_eq!(table.find(first), Some(&"first"));
        assert_eq!(table.remove(first), Some("first"));
        let second: SetId = table.insert("second");
        assert_eq!(second.index, first.index);
        assert_eq!(table.find(first), None);
        assert_eq!((table.remove(first), table.len()), (None, 1));
        assert_eq!(table.name_at::<SetId>(second.index), Some(second));
    }
}
