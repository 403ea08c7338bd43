"""One ORM Session over all shards: objects go where their keys belong, and a commit is one for all of them.

Relationships are loaded from the partition of their object, queries are answered over all shards. Ids of new rows are
given by the router: they are unique, ordered by time, and find their row again.
"""

from sqlalchemy import BigInteger, ForeignKey, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import shardpool
from shardpool import Sharded
from shardpool.local import LocalCluster


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"
    owner_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]
    pets: Mapped[list["Pet"]] = relationship(back_populates="owner", order_by="Pet.name")


class Pet(Base):
    __tablename__ = "pets"
    owner_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Owner.owner_id), primary_key=True)
    pet_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, default=shardpool.next_id)
    name: Mapped[str]
    owner: Mapped[Owner] = relationship(back_populates="pets")


DDL = """
CREATE TABLE owners (owner_id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE pets (
    owner_id bigint NOT NULL REFERENCES owners, pet_id bigint NOT NULL, name text NOT NULL,
    PRIMARY KEY (owner_id, pet_id)
);
"""

with LocalCluster(shards=2, partitions=8, keyspace="zoo") as cluster, cluster.router() as router:
    router.create_schema(DDL, tables={"owners": Sharded("owner_id"), "pets": Sharded("owner_id")})

    with router.session() as session:
        session.add_all(
            Owner(owner_id=number, name=f"owner {number}", pets=[Pet(name="cat"), Pet(name="dog")])
            for number in range(20)
        )
        session.commit()  # both shards, or neither

    with router.session() as session:
        owner = session.get_one(Owner, 7)
        print(owner.name, "on", router.shard_of(7).name, "has a", " and a ".join(pet.name for pet in owner.pets))

        counted = select(Pet.name, func.count()).group_by(Pet.name).order_by(Pet.name)
        print([tuple(row) for row in session.execute(counted)])

        pet = owner.pets[0]
        found = router.execute_by_id(pet.pet_id, "SELECT owner_id FROM pets WHERE pet_id = :id", {"id": pet.pet_id})
        print("found by its id alone: a pet of owner", found.scalar_one())

        # A pet changes hands: its partition key changes, and the row moves to the other owner's partition.
        pet.owner = session.get_one(Owner, 8)
        session.commit()
        print("owner 8 has", len(session.get_one(Owner, 8).pets), "pets")
