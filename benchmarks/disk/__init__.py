"""The disk tier beside what the disk can do without it, and beside RocksDB as a store of values.

`settings` says what is measured, `memory` what blocks are made of; `tier`, `hits`, `rocks` and `recovery` measure one
thing each; `rounds` takes turns between them, `goals` judges, `report` shows, `noise` says who else used the machine.
"""
