mod history;
mod property;
