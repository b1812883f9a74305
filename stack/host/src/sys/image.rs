//! Which build of this library is loaded, and where. The shared state of a family holds addresses of the library's code
//! and tables, so an image that comes to it by exec must be the same build at the same address.

use std::mem::size_of;

/// The SHA-1 that the linker leaves in the build id note.
const BUILD_ID: usize = 20;

/// NT_GNU_BUILD_ID (elf.h).
const NOTE_BUILD_ID: u32 = 3;

/// Notes longer than this are no build id's.
const NOTES_MAX: usize = 4096;

/// What names a loaded image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where its ELF header lies.
    pub base: usize,
    /// Its build id; zeros where the linker has left none.
    pub build: [u8; BUILD_ID],
}

impl Image {
    /// Bytes of [`Image::encode`].
    pub const SIZE: usize = 8 + BUILD_ID;

    /// As it goes over a socket to a process of the same machine.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (base, build) = bytes.split_at_mut(8);
        base.copy_from_slice(&self.base.to_ne_bytes());
        build.copy_from_slice(&self.build);
        bytes
    }

    /// Whether the build is known: without it nothing can be said to be the same.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.build != [0; BUILD_ID]
    }
}

unsafe extern "C" {
    /// The ELF header of the image that this code was linked into; defined by the linker.
    static __ehdr_start: libc::Elf64_Ehdr;
}

/// The image that this code is part of.
#[must_use]
pub fn own() -> Image {
    let start = (&raw const __ehdr_start).expose_provenance();
    Image { base: start, build: build_id(start).unwrap_or([0; BUILD_ID]) }
}

fn build_id(start: usize) -> Option<[u8; BUILD_ID]> {
    let header = std::ptr::with_exposed_provenance::<libc::Elf64_Ehdr>(start);
    // SAFETY: the linker's symbol; the first segment of the image begins with the header and is mapped for good.
    let header = unsafe { &*header };
    let table = std::ptr::with_exposed_provenance::<libc::Elf64_Phdr>(start.checked_add(header.e_phoff as usize)?);
    // SAFETY: the program headers follow in the same segment, or the loader could not have loaded it.
    let table = unsafe { std::slice::from_raw_parts(table, usize::from(header.e_phnum)) };
    let first = table.iter().find(|segment| segment.p_type == libc::PT_LOAD && segment.p_offset == 0)?;
    let bias = start.wrapping_sub(first.p_vaddr as usize);
    for note in table.iter().filter(|segment| segment.p_type == libc::PT_NOTE) {
        let inside = note.p_offset.checked_add(note.p_memsz)? <= first.p_memsz;
        if !inside || note.p_memsz as usize > NOTES_MAX {
            continue;
        }
        let bytes = std::ptr::with_exposed_provenance::<u8>(bias.wrapping_add(note.p_vaddr as usize));
        // SAFETY: inside the first segment, which is mapped for good and never written.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, note.p_memsz as usize) };
        if let Some(found) = find_build_id(bytes) {
            return Some(found);
        }
    }
    None
}

/// The build id among the notes of a segment: name length, content length, type; name and content padded to four bytes.
fn find_build_id(mut notes: &[u8]) -> Option<[u8; BUILD_ID]> {
    const HEAD: usize = 3 * size_of::<u32>();
    loop {
        let (head, rest) = notes.split_at_checked(HEAD)?;
        let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let (name_length, length, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let (name, rest) = rest.split_at_checked(name_length.checked_next_multiple_of(4)?)?;
        let content = rest.get(..length)?;
        if kind == NOTE_BUILD_ID && name.starts_with(b"GNU\0") {
            let mut id = [0; BUILD_ID];
            let used = length.min(BUILD_ID);
            id.get_mut(..used)?.copy_from_slice(content.get(..used)?);
            return Some(id);
        }
        notes = rest.get(length.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            bytes.extend(word.to_ne_bytes());
        }
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn build_id_is_found_behind_other_notes() {
        let mut notes = note(b"GNU\0", 1, &[1, 2, 3]);
        notes.extend(note(b"other\0", NOTE_BUILD_ID, &[9; 20]));
        notes.extend(note(b"GNU\0", NOTE_BUILD_ID, &[7; 20]));
        assert_eq!(find_build_id(&notes), Some([7; 20]));
    }

    #[test]
    fn notes_cut_short_hold_no_build_id() {
        let notes = note(b"GNU\0", NOTE_BUILD_ID, &[7; 20]);
        for length in 0..notes.len() {
            assert_eq!(find_build_id(&notes[..length]), None);
        }
    }

    #[test]
    fn own_image_contains_its_code_and_is_the_same_each_time() {
        let image = own();
        assert!((own as *const () as usize).wrapping_sub(image.base) < 1 << 30);
        assert_eq!(own(), image);
    }
}
