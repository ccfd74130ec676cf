# tests of gossip
