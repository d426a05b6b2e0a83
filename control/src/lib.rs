//! The daemon around the data path. So far: the discipline of its clock.

pub mod discipline;
