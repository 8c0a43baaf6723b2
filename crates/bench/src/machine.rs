//! What processes take, from `/proc`.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Linux counts a process's time in hundredths of a second, whatever the kernel's own tick.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that a server has taken: the postmaster, its processes, and those that have ended.
pub(crate) fn server_cpu(postmaster: u32) -> Result<f64> {
    let own = Stat::of(postmaster)?;
    let mut ticks = own.own_ticks + own.ended_ticks;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ended meanwhile is with the ended ones next time.
        if let Ok(stat) = Stat::of(pid)
            && stat.parent == postmaster
        {
            ticks += stat.own_ticks;
        }
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// CPU seconds that a process has taken, to the nanosecond: the sum over its threads.
pub(crate) fn process_cpu(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(entry?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        nanoseconds += first.with_context(|| format!("schedstat says {text:?}"))?;
    }
    Ok(nanoseconds / 1e9)
}

/// CPU seconds of the children of this process that have ended.
pub(crate) fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Resident memory now and at its highest, in MiB.
pub(crate) fn resident(pid: u32) -> Result<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read a process's status")?;
    let kibibytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok())
            .with_context(|| format!("no {key} in a process's status"))
    };
    Ok((kibibytes("VmRSS:")? / 1024.0, kibibytes("VmHWM:")? / 1024.0))
}

struct Stat {
    parent: u32,
    own_ticks: f64,
    ended_ticks: f64,
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).with_context(|| format!("/proc/{pid}/stat says {text:?}"))
    }

    /// The name in parentheses may hold anything, spaces included.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own_ticks: ticks(11)? + ticks(12)?,
            ended_ticks: ticks(13)? + ticks(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_is_no_field() {
        let text = "12 (a b) c) S 7 1 1 0 -1 0 0 0 0 0 100 50 20 5 20 0 1 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.parent, stat.own_ticks, stat.ended_ticks), (7, 150.0, 25.0));
    }

    #[test]
    fn this_process_takes_something() {
        let pid = std::process::id();
        assert!(process_cpu(pid).unwrap() > 0.0);
        let (now, highest) = resident(pid).unwrap();
        assert!(0.0 < now && now <= highest);
        assert!(server_cpu(pid).is_ok());
    }
}
