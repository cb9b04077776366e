//! The store of a replica against what disks do: crashes between any two sectors, flipped bits, no room, errors, and
//! the real file system.

mod crash;
mod damage;
mod disk;
mod model;
mod real;
