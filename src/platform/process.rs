//! Process settings of the operating system: no core dumps, which would contain keys, and the highest allowed limit of
//! descriptors.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use super::fault::{Context, Fault};

/// Descriptors that are not for client connections: the database, other servers, files, event loops.
const RESERVED: usize = 256;

/// Forbids core dumps, and access of other processes of the same user to this process's memory and descriptors.
/// Programs that this process starts are accessible again, but make no core dumps either.
pub fn forbid_core_dumps() -> Result<(), Fault> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false).context("forbidding core dumps")?;
    Ok(())
}

/// Raises the limit of open descriptors as far as the operating system allows. Returns the limit now in force.
pub fn raise_descriptors() -> Result<usize, Fault> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of descriptors")?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        // Some systems report a hard limit that they do not grant.
        tracing::warn!(soft, hard, "the limit of descriptors could not be raised");
    }
    descriptors()
}

/// The limit of open descriptors.
pub fn descriptors() -> Result<usize, Fault> {
    let (soft, _): (rlim_t, rlim_t) =
        getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of descriptors")?;
    Ok(usize::try_from(soft).unwrap_or(usize::MAX))
}

/// How many client connections fit within a limit of descriptors, besides `others` that are needed for known purposes.
pub fn connections_below(descriptors: usize, others: usize) -> usize {
    let reserved = RESERVED.saturating_add(others);
    // If the limit is low, half of it.
    descriptors.saturating_sub(reserved).max(descriptors / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(connections_below(1_024, 20), 748);
        assert_eq!(connections_below(256, 20), 128);
        assert_eq!(connections_below(1, 20), 1);
        assert_eq!(connections_below(usize::MAX, 20), usize::MAX - 276);
    }
}
