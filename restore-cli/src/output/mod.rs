//! What a person or a program gets to see.
//!
//! Every answer is a document: a plain struct that serialises to the documented JSON and knows how to be set as text.
//! Making either is pure; only [`stdout`] writes. Stdout is data, stderr is talk.

pub mod deployments;
pub mod deployments_page;
pub mod expire;
pub mod find;
pub mod html;
pub mod human;
pub mod impact;
pub mod impact_page;
pub mod implicit;
pub mod info;
pub mod job;
pub mod json;
pub mod marker;
pub mod moment;
pub mod paint;
pub mod pin;
pub mod plan;
pub mod progress;
pub mod restored;
pub mod stanza;
pub mod status;
pub mod stdout;
pub mod table;
pub mod verification;
pub mod verify;
pub mod view;

pub use moment::Zone;
pub use paint::Paint;
pub use view::View;
