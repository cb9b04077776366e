//! Fakes: same names, same refusals, no kernel.

pub mod cgroups;
