//! What this process asks of the operating system: no core dumps, which would hold keys, and as many descriptors as it
//! may have.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use super::fault::{Context, Fault};

/// Descriptors that are not for connections of clients: the database, other servers, files, event loops.
const RESERVED: usize = 256;

/// Forbids core dumps, and that processes of the same user read the memory or the descriptors of this one. Programs that
/// this process starts are readable again, but make no core dumps either.
pub fn forbid_core_dumps() -> Result<(), Fault> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("forbidding core dumps")?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false).context("forbidding core dumps")?;
    Ok(())
}

/// Raises the limit of open descriptors as far as the operating system lets it; answers the limit that holds now.
pub fn raise_descriptors() -> Result<usize, Fault> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of descriptors")?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        // Some systems name a hard limit that they do not grant.
        tracing::warn!(soft, hard, "the limit of descriptors could not be raised");
    }
    descriptors()
}

/// How many descriptors may be open at a time.
pub fn descriptors() -> Result<usize, Fault> {
    let (soft, _): (rlim_t, rlim_t) =
        getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of descriptors")?;
    Ok(usize::try_from(soft).unwrap_or(usize::MAX))
}

/// How many connections of clients fit below a limit of descriptors, beside `others` that are known to be needed.
pub fn connections_below(descriptors: usize, others: usize) -> usize {
    let reserved = RESERVED.saturating_add(others);
    // Where there is little, half of it.
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
