//! What goes on beside the calls: it ends when the process begins to end.

mod finish_journal;
