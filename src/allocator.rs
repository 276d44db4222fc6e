//! The system's allocator. By default glibc gives each thread an arena of its own, eight for each core,
//! and one keeps what another would need: what many threads take one after the other adds up.
#![allow(unsafe_code)]

/// Arenas of all threads together.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Bounds the arenas. Other allocators than glibc's stay as they are.
pub fn share_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number. It is refused where it is none of glibc's, and nothing is changed then.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
