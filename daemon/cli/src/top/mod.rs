mod chart;
mod columns;
mod render;
#[cfg(test)]
mod sample;
mod state;
