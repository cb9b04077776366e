//! Settings of the calling thread's network namespace: /proc/sys/net shows each thread those of its own.

use std::{fs, io};

/// `name` as under /proc/sys/net, for example `ipv4/conf/eth0/rp_filter`. `None`: this kernel has no such setting.
pub fn read(name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(format!("/proc/sys/net/{name}")) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// True: written. False: this kernel has no such setting.
pub fn write(name: &str, value: &str) -> io::Result<bool> {
    match fs::write(format!("/proc/sys/net/{name}"), value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
