# src/gossip
