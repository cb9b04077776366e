//! Attaching to an interface's ingress.
//!
//! Two ways. [`Steering::attach`] makes a filter of clsact, which goes with the interface: nobody has to keep it. That is
//! for interfaces of our own. tcx would make the kernel wait for an RCU grace period at the first program and at the
//! interface's end (kernel/bpf/tcx.c, `tcx_entry_sync`): 12 ms each, under the lock that all of netlink waits for.
//!
//! [`Steering::pin_at`] makes a pinned link of tcx: removing the pin removes the program from an interface that stays;
//! other programs there are not touched. Before Linux 6.6 there is no tcx, and where others have filters at clsact they
//! are to see the packets first: then it makes a filter as well, and a directory among the pins that remembers it (a bpffs
//! has no files). Interfaces are those of the calling thread's network namespace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libbpf_rs::{TC_INGRESS, TcHook, TcHookBuilder, libbpf_sys};

use crate::steering::{Entry, Steering, SteeringError};

/// Where our filters stand in a clsact: behind those that people number by hand.
pub const PRIORITY: u16 = 0xb000;

/// How a program is attached to an interface that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A link of tcx, before all filters of clsact.
    Link,
    /// A filter of clsact, behind those of others: a link would take the packets before they are looked at.
    Filter,
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}

/// This kernel knows no tcx: EINVAL is what it says to an attach type that it has not.
fn unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

impl Steering {
    fn program(&self, entry: Entry, ifindex: u32) -> Result<&OwnedFd, SteeringError> {
        self.entry(entry).ok_or_else(|| SteeringError::Hook {
            operation: "find",
            program: entry.name(),
            ifindex,
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    /// Attaches for as long as the interface is there. Once more puts it in the place of the former.
    pub fn attach(&self, entry: Entry, ifindex: u32) -> Result<(), SteeringError> {
        let mut hook = self.filter(entry, ifindex)?;
        hook.create()
            .and_then(|mut hook| hook.attach())
            .map(drop)
            .map_err(|error| SteeringError::Hook {
                operation: "attach with clsact",
                program: entry.name(),
                ifindex,
                source: io::Error::other(error.to_string()),
            })
    }

    /// As [`attach`](Self::attach), after taking away programs of that name that earlier agents have attached by tcx.
    pub fn reattach(&self, entry: Entry, ifindex: u32) -> Result<(), SteeringError> {
        let failed = |source| SteeringError::Hook {
            operation: "detach former programs",
            program: entry.name(),
            ifindex,
            source,
        };
        for former in attached(ifindex).map_err(failed)? {
            if former.name.as_bytes() != &entry.name().as_bytes()[..entry.name().len().min(NAME_MAX)] {
                continue;
            }
            // SAFETY: a live descriptor, no options.
            checked(unsafe {
                libbpf_sys::bpf_prog_detach_opts(
                    former.program.as_raw_fd(),
                    ifindex as i32,
                    libbpf_sys::BPF_TCX_INGRESS,
                    std::ptr::null(),
                )
            })
            .map_err(failed)?;
        }
        self.attach(entry, ifindex)
    }

    fn filter(&self, entry: Entry, ifindex: u32) -> Result<TcHook, SteeringError> {
        Ok(TcHookBuilder::new(self.program(entry, ifindex)?.as_fd())
            .ifindex(ifindex as i32)
            .replace(true)
            .handle(self.filter_handle())
            .priority(u32::from(PRIORITY))
            .hook(TC_INGRESS))
    }

    /// Another agent's filter at the same interface has another one: FNV-1a of where the pins are, never 0.
    fn filter_handle(&self) -> u32 {
        let path = self.directory().as_os_str().as_bytes();
        let hash = path.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        hash | 1
    }

    fn pin_path(&self, entry: Entry, ifindex: u32) -> PathBuf {
        self.directory().join(format!("link-{}-{ifindex}", entry.name()))
    }

    fn filter_mark(&self, entry: Entry, ifindex: u32) -> PathBuf {
        self.directory()
            .join(format!("filter-{}-{ifindex}", entry.name()))
    }

    /// The clsact at this interface is ours to remove.
    fn clsact_mark(&self, ifindex: u32) -> PathBuf {
        self.directory().join(format!("clsact-{ifindex}"))
    }

    /// Attaches to an interface that stays. What is there already stays as it is: what it runs is found through `stages`.
    pub fn pin_at(&self, entry: Entry, ifindex: u32, way: Way) -> Result<(), SteeringError> {
        match way {
            Way::Link => self.pin_link(entry, ifindex),
            Way::Filter => {
                self.attach_and_mark(entry, ifindex)?;
                remove(&self.pin_path(entry, ifindex))
            }
        }
    }

    fn attach_and_mark(&self, entry: Entry, ifindex: u32) -> Result<(), SteeringError> {
        let mut hook = libbpf_sys::bpf_tc_hook {
            sz: size_of::<libbpf_sys::bpf_tc_hook>() as libbpf_sys::size_t,
            ifindex: ifindex as i32,
            attach_point: libbpf_sys::BPF_TC_INGRESS,
            ..Default::default()
        };
        // SAFETY: a structure that has its own size in it.
        let created = checked(unsafe { libbpf_sys::bpf_tc_hook_create(&raw mut hook) });
        match created {
            // Marked first: a clsact too many is removed, one that nobody remembers is not.
            Ok(_) => mark(&self.clsact_mark(ifindex))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(SteeringError::Hook {
                    operation: "make a clsact for",
                    program: entry.name(),
                    ifindex,
                    source,
                });
            }
        }
        mark(&self.filter_mark(entry, ifindex))?;
        self.attach(entry, ifindex)
    }

    fn pin_link(&self, entry: Entry, ifindex: u32) -> Result<(), SteeringError> {
        let path = self.pin_path(entry, ifindex);
        match interface_of(&path) {
            Some(at) if at == ifindex => return Ok(()),
            // Its interface is gone, and another has got its number.
            Some(_) => remove(&path)?,
            None => {}
        }
        let program = self.program(entry, ifindex)?;
        // SAFETY: the descriptor is live, no options.
        let link = checked(unsafe {
            libbpf_sys::bpf_link_create(
                program.as_raw_fd(),
                ifindex as i32,
                libbpf_sys::BPF_TCX_INGRESS,
                std::ptr::null(),
            )
        });
        let link = match link {
            // SAFETY: a new descriptor that nobody else knows.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            Err(error) if unknown(&error) => return self.attach_and_mark(entry, ifindex),
            Err(source) => {
                return Err(SteeringError::Hook {
                    operation: "attach",
                    program: entry.name(),
                    ifindex,
                    source,
                });
            }
        };
        pin(&link, &path).map_err(|source| SteeringError::Pin { path, source })
    }

    /// Takes the program away from an interface that stays. True: the clsact that is left was made for it.
    pub fn unpin_at(&self, entry: Entry, ifindex: u32) -> Result<bool, SteeringError> {
        remove(&self.pin_path(entry, ifindex))?;
        let filter_mark = self.filter_mark(entry, ifindex);
        if !filter_mark.exists() {
            return Ok(false);
        }
        let mut filter = self.filter(entry, ifindex)?;
        // None there is as good: somebody has taken it away, or the whole interface.
        if let Ok(found) = filter.query()
            && found != 0
        {
            filter.detach().map_err(|error| SteeringError::Hook {
                operation: "detach",
                program: entry.name(),
                ifindex,
                source: io::Error::other(error.to_string()),
            })?;
        }
        unmark(&filter_mark)?;
        let clsact_mark = self.clsact_mark(ifindex);
        let ours = clsact_mark.exists();
        unmark(&clsact_mark)?;
        Ok(ours)
    }

    /// Asks the kernel whether the program is at that interface, in whichever way.
    pub fn is_attached(&self, entry: Entry, ifindex: u32) -> bool {
        if interface_of(&self.pin_path(entry, ifindex)) == Some(ifindex) {
            return true;
        }
        let filter = self.filter(entry, ifindex);
        filter.is_ok_and(|mut filter| filter.query().is_ok_and(|program| program != 0))
    }

    /// Whether the program is at that interface as a filter.
    pub fn is_filter_at(&self, entry: Entry, ifindex: u32) -> bool {
        self.filter_mark(entry, ifindex).exists()
    }

    /// The interfaces that `entry` is attached to; a link's that is gone has number 0 beside the one it had.
    pub fn pinned_at(&self, entry: Entry) -> Vec<(u32, u32)> {
        let link = format!("link-{}-", entry.name());
        let filter = format!("filter-{}-", entry.name());
        let Ok(entries) = std::fs::read_dir(self.directory()) else {
            return Vec::new();
        };
        entries
            .filter_map(|one| {
                let one = one.ok()?;
                let name = one.file_name();
                let name = name.to_str()?;
                if let Some(named) = name.strip_prefix(&filter) {
                    let named = named.parse().ok()?;
                    return Some((named, named));
                }
                let named = name.strip_prefix(&link)?.parse().ok()?;
                Some((named, interface_of(&one.path()).unwrap_or_default()))
            })
            .collect()
    }

    /// Removes all pins of links, then those of maps: the programs and maps go with them. Filters have to be detached before.
    pub fn remove_pins(&self) -> Result<(), SteeringError> {
        let entries = std::fs::read_dir(self.directory()).map_err(|source| SteeringError::Directory {
            path: self.directory().to_owned(),
            source,
        })?;
        let (links, maps): (Vec<_>, Vec<_>) = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .partition(|path| {
                let name = path.file_name().map(|name| name.as_bytes());
                name.is_some_and(|name| name.starts_with(b"link-"))
            });
        for path in links.iter().chain(&maps) {
            if path.is_dir() {
                unmark(path)?;
            } else {
                remove(path)?;
            }
        }
        std::fs::remove_dir(self.directory()).map_err(|source| SteeringError::Directory {
            path: self.directory().to_owned(),
            source,
        })
    }
}

/// BPF_OBJ_NAME_LEN without the null byte: longer names are cut.
const NAME_MAX: usize = 15;

/// A program at an interface's ingress.
struct AttachedProgram {
    name: String,
    program: OwnedFd,
}

/// Those at tcx; none where the kernel knows no tcx.
fn attached(ifindex: u32) -> io::Result<Vec<AttachedProgram>> {
    const ENOUGH: usize = 64;
    let mut ids = [0u32; ENOUGH];
    let mut query = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    query.__bindgen_anon_1.count = ENOUGH as u32;
    // SAFETY: `query` has its size, and room for as many ids as it says.
    let result = checked(unsafe {
        libbpf_sys::bpf_prog_query_opts(ifindex as i32, libbpf_sys::BPF_TCX_INGRESS, &raw mut query)
    });
    match result {
        Err(error) if unknown(&error) || error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    // SAFETY: all bytes of the union are numbers.
    let count = unsafe { query.__bindgen_anon_1.count } as usize;
    let mut programs = Vec::new();
    for id in ids.iter().take(count) {
        // SAFETY: an integer.
        let program = checked(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(*id) })?;
        // SAFETY: a new descriptor that nobody else knows.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let mut info = libbpf_sys::bpf_prog_info::default();
        let mut size = size_of::<libbpf_sys::bpf_prog_info>() as u32;
        // SAFETY: a live descriptor, and a structure of the size passed that points to no buffers.
        checked(unsafe {
            libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut size)
        })?;
        let name = info.name.iter().take_while(|byte| **byte != 0);
        let name = name.map(|byte| char::from(*byte as u8)).collect();
        programs.push(AttachedProgram { name, program });
    }
    Ok(programs)
}

fn remove(path: &Path) -> Result<(), SteeringError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SteeringError::Pin {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn mark(path: &Path) -> Result<(), SteeringError> {
    match std::fs::create_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(SteeringError::Pin {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn unmark(path: &Path) -> Result<(), SteeringError> {
    match std::fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SteeringError::Pin {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn pin(link: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: a live descriptor and a string that ends in a null byte.
    checked(unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), path.as_ptr()) }).map(drop)
}

/// Where the pinned link at `path` is attached; 0: its interface is gone. None: there is no such pin.
fn interface_of(path: &Path) -> Option<u32> {
    let path = c_path(path).ok()?;
    // SAFETY: a string that ends in a null byte.
    let link = checked(unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) }).ok()?;
    // SAFETY: a new descriptor that nobody else knows.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut size = size_of::<libbpf_sys::bpf_link_info>() as u32;
    // SAFETY: a live descriptor, and a structure of the size passed.
    checked(unsafe { libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut size) })
        .ok()?;
    // SAFETY: only tcx links are pinned here, and all bytes of the union are numbers.
    Some(unsafe { info.__bindgen_anon_1.tcx.ifindex })
}
