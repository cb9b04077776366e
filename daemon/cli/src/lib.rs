mod failure;
mod human;
mod output;
mod parse;
mod rates;
mod table;
mod top;
