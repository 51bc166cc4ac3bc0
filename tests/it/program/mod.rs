//! The real `remora` program as a process: its configuration, its commands, its bounds and its end.

mod admin;
mod bounds;
mod commands;
mod config;
