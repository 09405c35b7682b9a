//! Depth up-scaling: a deeper model from the layers of a base, as SOLAR 10.7B and Solar Pro Preview were made.
//!
//! 1. `plan`: what the result is made of, as data. 2. `recipes`: the plans that have names; `toml` and `mergekit`: those
//!    from files. 3. `print`: a plan as a picture. 4. `tensors`: which tensors the result has and of what each is made.
//! 5. `config`: what the result says about itself; `card`: what is told to people. 6. `write`: writing it.

mod plan;
mod recipes;

pub use plan::{Layer, MAX_LAYERS, PUBLISHED_TV, Part, Plan, PlanError, Skip};
pub use recipes::Recipe;
