# src/site
