//! Tests of the arena and its heap.

use super::*;
use crate::sys::testing::{in_child, in_raw_child};

fn with_arena(reserve: usize, body: impl FnOnce(Arena)) {
    let arena = Arena::map(reserve).unwrap();
    assert!(arena.is_sound());
    body(arena);
    // SAFETY: the tests keep no pointer into it.
    unsafe { arena.unmap() };
}

fn take(arena: Arena, size: usize, align: usize) -> (NonNull<u8>, Layout) {
    let layout = Layout::from_size_align(size, align).unwrap();
    assert_eq!(arena.lock().lock(), Ok(crate::sys::lock::Acquired::Clean));
    // SAFETY: the lock is held.
    let block = unsafe { arena.allocate(layout) };
    arena.lock().unlock();
    (NonNull::new(block).unwrap(), layout)
}

fn give(arena: Arena, (block, layout): (NonNull<u8>, Layout)) {
    assert!(arena.lock().lock().is_ok());
    // SAFETY: the lock is held, and the tests use no block after this.
    unsafe { arena.deallocate(block, layout) };
    arena.lock().unlock();
}

/// Kilobytes of shared memory resident in this process, from the mapping that begins at `base`.
fn resident(base: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&format!("{base:x}-")));
    let rss = lines.find(|line| line.starts_with("Rss:")).unwrap();
    rss.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn blocks_are_aligned_apart_and_accounted_for() {
    with_arena(MINIMUM_RESERVE, |arena| {
        let mut live = Vec::new();
        for round in 0..2000usize {
            let (size, align) = (1 + round * 7 % 3000, 1 << (round % 8));
            let block = take(arena, size, align);
            assert_eq!(block.0.as_ptr() as usize % align, 0);
            assert!(arena.contains(block.0.as_ptr() as usize));
            // SAFETY: the block is `size` long.
            unsafe { block.0.write_bytes(round as u8, size) };
            live.push((block, round as u8));
            if round % 3 == 0 {
                let (block, fill) = live.swap_remove(round * 31 % live.len());
                // SAFETY: the block is live and initialised.
                let bytes = unsafe { std::slice::from_raw_parts(block.0.as_ptr(), block.1.size()) };
                assert!(bytes.iter().all(|byte| *byte == fill), "another block wrote into this one");
                give(arena, block);
            }
        }
        assert!(arena.used() > 0);
        for (block, _) in live {
            give(arena, block);
        }
        assert_eq!(arena.used(), 0);
    });
}

#[test]
fn idle_arena_is_small_and_freed_large_blocks_go_back() {
    with_arena(DEFAULT_RESERVE, |arena| {
        assert!(resident(arena.base()) <= 64, "{} KiB", resident(arena.base()));
        let block = take(arena, 32 << 20, 64);
        // SAFETY: the block is that long.
        unsafe { block.0.write_bytes(1, 32 << 20) };
        assert!(resident(arena.base()) >= 32 << 10);
        assert!(arena.grown() >= 32 << 20);
        give(arena, block);
        assert!(resident(arena.base()) <= 128, "{} KiB", resident(arena.base()));
        // The freed range serves again, and is zero or old bytes, whichever.
        let again = take(arena, 32 << 20, 64);
        assert!(arena.grown() < 80 << 20);
        give(arena, again);
    });
}

#[test]
fn exhausted_arena_gives_null_and_serves_on() {
    with_arena(MINIMUM_RESERVE, |arena| {
        let reserve = arena.reserve();
        let layout = Layout::from_size_align(reserve, 8).unwrap();
        // SAFETY: nobody else knows this arena.
        assert!(unsafe { arena.allocate(layout) }.is_null());
        let mut blocks = Vec::new();
        let layout = Layout::from_size_align(1 << 20, 8).unwrap();
        loop {
            // SAFETY: nobody else knows this arena.
            let block = unsafe { arena.allocate(layout) };
            let Some(block) = NonNull::new(block) else { break };
            blocks.push((block, layout));
            assert!(blocks.len() < 100);
        }
        assert!(blocks.len() >= (reserve >> 20) - 4, "{} blocks", blocks.len());
        assert!(arena.available() < 4 << 20);
        give(arena, blocks.pop().unwrap());
        blocks.push(take(arena, 1 << 19, 8));
    });
}

#[test]
fn reallocation_keeps_contents_in_place_and_moved() {
    with_arena(MINIMUM_RESERVE, |arena| {
        let (mut block, mut layout) = take(arena, 100, 16);
        // SAFETY: the block is that long.
        unsafe { block.write_bytes(7, 100) };
        for size in [200, 5000, 3 << 20, 9 << 20, 100] {
            let _between = take(arena, 40, 8);
            // SAFETY: nobody else knows this arena; the block is live.
            block = NonNull::new(unsafe { arena.reallocate(block, layout, size) }).unwrap();
            layout = Layout::from_size_align(size, 16).unwrap();
            // SAFETY: at least 100 bytes are initialised.
            let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), 100) };
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
    });
}

#[test]
fn members_see_each_others_blocks_and_growth() {
    with_arena(DEFAULT_RESERVE, |arena| {
        let status = in_child(|| {
            // Grows far beyond what the parent has seen.
            let (block, _) = take(arena, 5 << 20, 8);
            // SAFETY: the block is that long.
            unsafe { block.write_bytes(42, 5 << 20) };
            arena.set_root(block.as_ptr().cast());
            in_raw_child(|| {
                let (block, _) = take(arena, 20 << 20, 8);
                // SAFETY: the block is that long.
                unsafe { block.write_bytes(43, 20 << 20) };
                0
            })
        });
        assert_eq!(status, 0);
        let root: *const u8 = arena.root().cast();
        // SAFETY: the child has written 5 MiB there.
        let written = unsafe { std::slice::from_raw_parts(root, 5 << 20) };
        assert_eq!(written.last(), Some(&42));
        assert!(arena.used() >= 25 << 20);
        take(arena, 1 << 20, 8);
    });
}

#[test]
fn limits_shrink_the_reserve_or_do_without_a_file() {
    let shrunk = in_child(|| {
        let mebibytes = |count: u64| call::ResourceLimit { soft: count << 20, hard: count << 20 };
        let mapped = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = mapped.split_whitespace().next().unwrap().parse().unwrap();
        call::set_resource_limit(libc::RLIMIT_AS as i32, mebibytes((pages >> 8) + 1200)).unwrap();
        let Ok(arena) = Arena::map(DEFAULT_RESERVE) else { return 1 };
        i32::from(arena.reserve() >= 1 << 30) * 2
    });
    assert_eq!(shrunk, 0);
    // A file size limit sends SIGXFSZ to whoever exceeds it: anonymous memory instead.
    let anonymous = in_child(|| {
        let limit = call::ResourceLimit { soft: 512, hard: 512 };
        call::set_resource_limit(libc::RLIMIT_FSIZE as i32, limit).unwrap();
        let Ok(arena) = Arena::map(DEFAULT_RESERVE) else { return 1 };
        let (block, _) = take(arena, 5 << 20, 8);
        // SAFETY: the block is that long.
        unsafe { block.write_bytes(1, 5 << 20) };
        i32::from(arena.fd().is_some()) * 2
    });
    assert_eq!(anonymous, 0);
    // Lowered later, it stops the growth without a signal.
    let stopped = in_child(|| {
        let Ok(arena) = Arena::map(DEFAULT_RESERVE) else { return 1 };
        let limit = call::ResourceLimit { soft: 1 << 20, hard: 1 << 20 };
        call::set_resource_limit(libc::RLIMIT_FSIZE as i32, limit).unwrap();
        let layout = Layout::from_size_align(2 << 20, 8).unwrap();
        // SAFETY: nobody else knows this arena.
        let block = unsafe { arena.allocate(layout) };
        i32::from(!block.is_null() || arena.available() > 1 << 20) * 2
    });
    assert_eq!(stopped, 0);
}

#[test]
fn lost_descriptor_stops_growth_and_a_new_number_resumes_it() {
    let status = in_child(|| {
        let Ok(arena) = Arena::map(DEFAULT_RESERVE) else { return 1 };
        let spare = call::duplicate_from(arena.fd(), 3).unwrap();
        // The program closes our number and opens a file of its own there.
        let stranger = call::memfd_create(c"stranger", 0).unwrap();
        call::dup3(stranger, arena.fd(), 0).unwrap();
        let layout = Layout::from_size_align(2 << 20, 8).unwrap();
        // SAFETY: nobody else knows this arena.
        if !unsafe { arena.allocate(layout) }.is_null() {
            return 2;
        }
        if !arena.is_backed_by(spare) || arena.is_backed_by(arena.fd()) {
            return 3;
        }
        arena.replace_fd(spare);
        // SAFETY: nobody else knows this arena.
        i32::from(unsafe { arena.allocate(layout) }.is_null()) * 4
    });
    assert_eq!(status, 0);
}
