//! Attempts to get out of a container: each known class, tried from inside as root there, through the real agent.
//!
//! An attack prints a line `DONE name` when it worked; [`arena::Arena::attack`] fails then, and also when anything on
//! the host is not as it was ([`canary::Canary`]). A test says which class it guards. What races is tried
//! [`arena::races`] times: 1,000, less often on an emulated machine.
//!
//! | class | guarded by |
//! |---|---|
//! | overwriting the runtime (CVE-2019-5736, CVE-2019-0204) | own_program |
//! | leaked descriptors and directories (CVE-2024-21626, CVE-2016-9962) | descriptors |
//! | exchange while mounting (CVE-2021-30465, CVE-2017-1002101) | mount_races |
//! | links in a root file system (CVE-2019-19921, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565, CVE-2026-41579) | images |
//! | kernel files: release_agent (CVE-2022-0492), core_pattern, sysctl, masks (CVE-2025-52881) | kernel_files |
//! | processes of the host and of the runtime; capabilities (CVE-2022-29162, CVE-2022-27650) | processes |
//! | devices, terminals (CVE-2016-2568), what is printed on an operator's terminal | devices, terminals |
//! | set-user-id through the sandbox | set_user_id |
//! | directories, sockets and programs of the agent (CVE-2020-15257) | reach |
//! | ids as paths (CVE-2026-30892) | names |
//! | the kernel's surface: system calls | system_calls |
//! | what runs out: processes, output, inodes | exhaustion |
//! | the agent's own privileges | agent_privileges |
//!
//! Not there yet, so not attacked: JSON web tokens (CVE-2018-8023), the fetcher and its archives, a web interface
//! (CVE-2018-1000420). Hostile bytes on the agent's sockets are in `adversary` and in the fuzz targets, crafted
//! records for an init in `container`'s tests.

mod agent_privileges;
mod arena;
mod canary;
mod descriptors;
mod devices;
mod exhaustion;
mod images;
mod kernel_files;
mod mount_races;
mod names;
mod own_ids;
mod own_program;
mod processes;
mod reach;
mod set_user_id;
mod system_calls;
mod terminals;
