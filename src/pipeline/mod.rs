//! From settings to pictures: a request is resolved to a run, whose stages one cascade draws, whatever the system.
//!
//! ```text
//! Settings ─resolve─> Run ─cascade─> for each stage: noise ─> start ─> conditions (a system's) ─> sampler ─> hand over
//!                      └──plan──> what it costs, program by program
//! ```
//! - [`run`], [`resolve`]: a run as plain data, and how it comes about. - [`cascade`]: the one loop over stages.
//! - [`stage`], [`denoiser`], [`sampler`]: a stage's networks, their programs, the loop over steps.
//! - [`load`], [`system`]: which system draws, and what it adds; [`imagen`], [`ddpm`], [`adm`], [`glide`], [`unclip`], [`upsampler`] each do.
//! - [`adapters`]: LoRA, merged into networks as they are loaded.
//! - [`text`], [`clip`], [`guidance`]: what reads prompts, and what steers. - [`cost`], [`plan`].

pub mod adapters;
pub mod adm;
pub mod bisect;
pub mod cascade;
pub mod clip;
pub mod cost;
pub mod ddpm;
pub mod denoiser;
pub mod glide;
pub mod guidance;
pub mod imagen;
pub mod load;
pub mod node_cost;
pub mod plan;
pub mod resolve;
pub mod run;
pub mod sampler;
pub mod stage;
mod stepper;
pub mod system;
pub mod text;
pub mod unclip;
pub mod upsampler;
