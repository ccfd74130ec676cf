# src/formats
