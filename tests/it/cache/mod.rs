//! The cache below its endpoints: what becomes visible when, what it costs, and what is left behind.

mod disk;
mod document;
mod journal;
mod known;
mod manifests;
mod outage;
mod read;
mod uploads;
mod visibility;
